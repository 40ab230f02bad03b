"""The image as its files describe it: the linter's rules, what goes in, and the check that runs its steps."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
UPLOAD_LIMIT = 5_000_000

Step = tuple[str, str]


def steps(dockerfile: str) -> list[Step]:
    """The instructions of a Dockerfile, each as its name and what it says, continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines()]


def final_stage(dockerfile: str) -> list[Step]:
    all_steps = steps(dockerfile)
    last = max(number for number, (name, _) in enumerate(all_steps) if name == "FROM")
    return all_steps[last:]


def said(all_steps: list[Step], instruction: str) -> list[str]:
    return [rest for name, rest in all_steps if name == instruction]


def code_files(root: Path) -> set[str]:
    """Every file of the packages, without what Python caches."""
    found = (path for name in ("jobs", "mmbatch") for path in (root / name).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


def lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    hadolint = shutil.which("hadolint", path=TOOLS)
    assert hadolint, "hadolint is missing: make test installs it from tests/requirements.txt"
    return subprocess.run([hadolint, "-"], input=dockerfile, capture_output=True, text=True)


def test_linter_has_nothing_to_say():
    found = lint(DOCKERFILE)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("sound", "fault", "rule"),
    [
        ("USER 1000:1000", "USER root", "DL3002"),
        ("wget=1.21.*", "wget", "DL3008"),
        ("python:3.11.14-slim-bookworm\nARG", "python\nARG", None),
        ("FROM ${PYTHON_IMAGE}\n", "FROM python:latest\n", "DL3007"),
        ("--no-install-recommends ", "", "DL3015"),
        ("venv/bin/pip check", "cat chosen.txt | pip check; cd /tmp", "DL3003"),
        ('CMD ["python", "-m", "jobs.pipeline", "--help"]', "CMD python -m jobs.pipeline --help", "DL3025"),
    ],
)
def test_linter_and_pins_find_faults(sound: str, fault: str, rule: str | None):
    assert sound in DOCKERFILE
    faulty = DOCKERFILE.replace(sound, fault)
    if rule:
        assert rule in lint(faulty).stdout
    else:
        assert base_version(faulty) is None


def base_version(dockerfile: str) -> str | None:
    """The Python version of the base, to the patch release, or `None` if it is not pinned to one."""
    arguments = dict(rest.partition("=")[::2] for rest in said(steps(dockerfile), "ARG"))
    pinned = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-bookworm", arguments.get("PYTHON_IMAGE", ""))
    return pinned and pinned[1]


def test_base_has_the_python_that_everything_is_tested_with():
    version = base_version(DOCKERFILE)
    assert version
    assert said(steps(DOCKERFILE), "FROM") == ["${PYTHON_IMAGE} AS packages", "${PYTHON_IMAGE}"]
    minor = version.rpartition(".")[0]
    assert f"Python {minor} or newer" in (ROOT / "README.md").read_text()
    assert f"for Python {minor} on Linux" in REQUIREMENTS
    assert f'python_version = "{minor}"' in (ROOT / "pyproject.toml").read_text()


def test_manifests_name_the_ray_of_the_image():
    pinned = re.search(r"^ray\[.*\]==(\S+)$", REQUIREMENTS, re.MULTILINE)
    assert pinned
    manifests = "\n".join(path.read_text() for path in sorted((ROOT / "cluster").rglob("*.yaml")))
    named = re.findall(r"rayVersion: *[\"']?([^\s\"']+)", manifests)
    assert set(named) == {pinned[1]}


def test_final_stage_is_not_root_and_has_no_compiler():
    final = final_stage(DOCKERFILE)
    assert said(final, "USER") == ["1000:1000"]
    after = [name for name, _ in final[final.index(("USER", "1000:1000")) + 1 :]]
    assert set(after) <= {"HEALTHCHECK", "CMD"}
    installed = re.findall(r"apt-get install((?: [^&;]+)+)", "\n".join(said(final, "RUN")))
    packages = {word.partition("=")[0] for words in installed for word in words.split() if not word.startswith("--")}
    assert packages == {"libgomp1", "wget"}
    assert not any("pip" in rest for rest in said(final, "RUN"))


def test_nothing_secret_has_a_place():
    given = " ".join(said(steps(DOCKERFILE), "ENV") + said(steps(DOCKERFILE), "ARG"))
    assert not re.search("KEY|SECRET|TOKEN|PASSWORD", given, re.IGNORECASE)


def copied(dockerfile: str) -> Iterator[str]:
    for rest in said(steps(dockerfile), "COPY"):
        if not rest.startswith("--from="):
            yield from rest.split()[:-1]


def kept_out(path: str) -> bool:
    """Whether .dockerignore keeps a file out: the last pattern counts that matches it or a folder above it."""
    above = [path, *map(str, PurePosixPath(path).parents)]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    out = False
    for line in (line for line in lines if not line.startswith("#")):
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, name) for name in above):
            out = not line.startswith("!")
    return out


def test_everything_that_is_copied_exists_and_is_let_in():
    sources = set(copied(DOCKERFILE))
    assert {"jobs", "mmbatch", "requirements.txt"} <= sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    files = {source for source in sources if (ROOT / source).is_file()} | code_files(ROOT)
    assert [file for file in files if kept_out(file)] == []


@pytest.mark.parametrize(
    "path", ["README.md", ".git/config", "demo/runs/a.parquet", "tests/conftest.py", "jobs/__pycache__/a.pyc", ".env"]
)
def test_nothing_else_is_let_in(path: str):
    assert kept_out(path)


def choose(tmp_path: Path, device: str) -> subprocess.CompletedProcess[str]:
    """Run the step that chooses the packages, with a pip that only says what it was asked for."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tools / "pip").chmod(0o755)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    (step,) = (rest for rest in said(steps(DOCKERFILE), "RUN") if "case" in rest)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DEVICE": device}
    command = ["bash", "-euo", "pipefail", "-c", step]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def pinned_names(requirements: str) -> set[str]:
    return {name.lower() for name in re.findall(r"^([\w.-]+)", requirements, re.MULTILINE)}


def test_gpu_image_has_every_pinned_package(tmp_path: Path):
    assert choose(tmp_path, "gpu").returncode == 0
    assert (tmp_path / "chosen.txt").read_text() == REQUIREMENTS


def test_cpu_image_lacks_what_only_cuda_needs(tmp_path: Path):
    asked = choose(tmp_path, "cpu")
    assert asked.returncode == 0
    assert "--no-deps" in asked.stdout
    assert "--index-url https://download.pytorch.org/whl/cpu" in asked.stdout
    chosen = (tmp_path / "chosen.txt").read_text()
    versions = dict(re.findall(r"^(torch|torchvision)==(\S+)", REQUIREMENTS, re.MULTILINE))
    assert (tmp_path / "torch.txt").read_text().split() == [f"{name}=={versions[name]}+cpu" for name in versions]
    dropped = pinned_names(REQUIREMENTS) - pinned_names(chosen)
    assert "triton" in dropped
    assert not re.search("cuda|nvidia", chosen.partition("\n\n")[2])
    kept = pinned_names(chosen) - {"torch"}
    needed = {need for name in kept for need in importlib.metadata.requires(name) or [] if "extra ==" not in need}
    assert not dropped & pinned_names("\n".join(needed))


def test_unknown_device_is_refused(tmp_path: Path):
    refused = choose(tmp_path, "tpu")
    assert refused.returncode == 1
    assert refused.stderr == "DEVICE is gpu or cpu, not 'tpu'\n"


def health(tmp_path: Path, *, node: bool, answer: int = 0) -> int:
    """Exit code of the health check, with a wget that ends as told."""
    (tmp_path / "wget").write_text(f"#!/bin/sh\nexit {answer}\n")
    (tmp_path / "wget").chmod(0o755)
    if node:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "RAY_TMPDIR": str(tmp_path)}
    return subprocess.run(["sh", "cluster/health.sh"], cwd=ROOT, env=environment).returncode


@pytest.mark.parametrize(("answer", "code"), [(0, 0), (4, 1), (8, 1)])
def test_node_is_as_healthy_as_ray_says(tmp_path: Path, answer: int, code: int):
    assert health(tmp_path, node=True, answer=answer) == code


def test_driver_without_node_is_healthy(tmp_path: Path):
    assert health(tmp_path, node=False, answer=4) == 0


SMALL = f"""
ARG PYTHON_IMAGE=python:{PYTHON}.0-slim-bookworm
ARG DEVICE=gpu
FROM ${{PYTHON_IMAGE}} AS packages
ARG DEVICE
# a comment
WORKDIR /opt
COPY requirements.txt ./
RUN mkdir venv; \\
    cat requirements.txt > venv/made; echo "${{DEVICE}}" >> venv/made
FROM ${{PYTHON_IMAGE}}
ENV PYTHONPATH=/app \\
    GREETING=hello
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY jobs jobs
RUN cat ../opt/venv/made
USER 1000:1000
RUN echo "user $(id -u)"
USER {os.getuid()}:{os.getgid()}
HEALTHCHECK --timeout=10s CMD ["python", "-c", "pass"]
CMD ["python", "-m", "jobs.pipeline", "--help"]
"""


def check(tmp_path: Path, dockerfile: str, *device: str) -> subprocess.CompletedProcess[str]:
    """Run the check on a small project whose job says where it is and what it was asked."""
    for folder in ("cluster", "jobs"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "cluster" / "check-image.sh", tmp_path / "cluster")
    (tmp_path / "requirements.txt").write_text("the requirements\n")
    (tmp_path / "jobs" / "pipeline.py").write_text("import os, sys\nprint(os.environ['GREETING'], *sys.argv[1:])\n")
    (tmp_path / "Dockerfile").write_text(dockerfile)
    environment = os.environ | {"PYTHON": sys.executable, "TMPDIR": str(tmp_path)}
    command = ["bash", str(tmp_path / "cluster" / "check-image.sh"), *device]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_check_runs_the_steps_of_the_dockerfile_and_then_the_job(tmp_path: Path):
    passed = check(tmp_path, SMALL, "cpu")
    assert (passed.returncode, passed.stderr) == (0, "")
    assert "the requirements\ncpu\n" in passed.stdout
    assert f"user {1000 if os.getuid() == 0 else os.getuid()}\n" in passed.stdout
    assert "\nhello --help\n" in passed.stdout
    assert re.search(r"^hello --workspace \S+ --rows 500$", passed.stdout, re.MULTILINE)
    assert passed.stdout.endswith("DEVICE=cpu: every step passed\n")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp.")] == []


@pytest.mark.parametrize(
    ("sound", "fault", "last_line"),
    [
        ("RUN cat ../opt/venv/made", "RUN cat missing", "check-image: failed: RUN cat missing"),
        ("COPY jobs jobs", "COPY missing missing", "check-image: failed: COPY missing missing"),
        ("WORKDIR /app\nCOPY jobs jobs", "WORKDIR /app", "check-image: failed: python -m jobs.pipeline --help"),
        ("WORKDIR /opt", "VOLUME /opt", "check-image: failed: VOLUME /opt: not an instruction that this script knows"),
        (f"python:{PYTHON}.0", "python:2.7.18", "check-image: failed: FROM python:2.7.18-slim-bookworm, and "),
    ],
)
def test_check_names_the_step_that_fails(tmp_path: Path, sound: str, fault: str, last_line: str):
    assert sound in SMALL
    failed = check(tmp_path, SMALL.replace(sound, fault))
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(last_line)
    assert "every step passed" not in failed.stdout


def uploaded(root: Path, package: Path) -> set[str]:
    """What Ray would send to the cluster for `--working-dir`, written to `package`; folders end with a slash."""
    create_package(str(root), package, include_gitignore=False)
    with zipfile.ZipFile(package) as archive:
        return set(archive.namelist())


def test_submission_uploads_the_code_and_little_else(tmp_path: Path):
    package = tmp_path / "package.zip"
    assert uploaded(ROOT, package) == code_files(ROOT)
    assert package.stat().st_size < UPLOAD_LIMIT


def crowded_checkout(root: Path, rayignore: str) -> None:
    code = ("jobs/__init__.py", "mmbatch/presets/kakao.py", "mmbatch/reports/page.html.j2")
    around = (".git/config", ".venv/lib/a.py", "ws/catalog/a.parquet", "weights/a.safetensors", "catalog.csv", ".env")
    cached = ("jobs/__pycache__/a.pyc", "mmbatch/presets/__pycache__/a.pyc")
    for name in (*code, *around, *cached):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".rayignore").write_text(rayignore)


def test_submission_uploads_nothing_that_lies_beside_the_code(tmp_path: Path):
    crowded_checkout(tmp_path / "checkout", (ROOT / ".rayignore").read_text())
    found = uploaded(tmp_path / "checkout", tmp_path / "package.zip")
    assert found == {"jobs/__init__.py", "mmbatch/presets/kakao.py", "mmbatch/reports/page.html.j2"}


@pytest.mark.parametrize(
    ("line", "path", "there"),
    [
        ("/*\n", "weights/a.safetensors", True),
        ("!/.\n", "jobs/__init__.py", False),
        ("!/mmbatch\n", "mmbatch/presets/kakao.py", False),
        ("__pycache__\n", "jobs/__pycache__/a.pyc", True),
    ],
)
def test_every_line_of_rayignore_is_needed(tmp_path: Path, line: str, path: str, there: bool):
    rayignore = (ROOT / ".rayignore").read_text()
    assert line in rayignore
    crowded_checkout(tmp_path / "checkout", rayignore.replace(line, ""))
    assert (path in uploaded(tmp_path / "checkout", tmp_path / "package.zip")) is there
