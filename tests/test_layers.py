"""Imports point down: jobs -> pipelines -> nouns -> workspace and tables -> schema and metrics."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*(ROOT / "mmbatch").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])

ALLOWED = {
    "ray": ("mmbatch/pipelines/",),
    "torch": (
        "mmbatch/encoders/",
        "mmbatch/fusion/",
        "mmbatch/pipelines/",
        "mmbatch/predictor.py",
        "mmbatch/online.py",
    ),
    "timm": ("mmbatch/encoders/",),
    "transformers": ("mmbatch/encoders/",),
    "lightgbm": (
        "mmbatch/fusion/late.py",
        "mmbatch/fusion/boosting.py",
        "mmbatch/fusion/explanation.py",
        "mmbatch/pipelines/boost.py",
    ),
    "deltalake": ("mmbatch/tables.py",),
    "matplotlib": ("mmbatch/reports/",),
    "streamlit": ("mmbatch/app/",),
    "altair": ("mmbatch/app/",),
    "captum": ("mmbatch/fusion/",),
    "mmbatch.app": ("mmbatch/app/", "jobs/"),
    "fastapi": ("mmbatch/endpoint.py", "mmbatch/pipelines/serve.py"),
    "cleanlab": ("mmbatch/label_noise.py",),
    "mmbatch.pipelines": ("mmbatch/pipelines/", "jobs/"),
    "mmbatch.presets": ("mmbatch/presets/", "jobs/"),
    "jobs": ("jobs/",),
}
"""Package -> the only places that may import it."""

BOTTOM = {
    "mmbatch/schema.py": set(),
    "mmbatch/metrics.py": {"mmbatch.schema"},
    "mmbatch/confidence_metrics.py": {"mmbatch.schema"},
    "mmbatch/errors.py": set(),
}
"""Module -> everything of this project that it may import."""


def imports_of(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def violations(path: str, source: str) -> list[str]:
    imported = imports_of(source)
    wrong = [
        f"{path} imports {package}"
        for package, places in ALLOWED.items()
        if any(name == package or name.startswith(f"{package}.") for name in imported) and not path.startswith(places)
    ]
    own = {name for name in imported if name.split(".")[0] == "mmbatch"}
    if path in BOTTOM and (more := {name for name in own if not any(name.startswith(ok) for ok in BOTTOM[path])}):
        wrong.append(f"{path} imports {sorted(more)}")
    return wrong


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(module: Path) -> None:
    assert violations(module.relative_to(ROOT).as_posix(), module.read_text()) == []


def test_a_noun_that_imports_ray_is_found() -> None:
    for line in ("import ray\n", "import ray.data\n", "def f():\n    from ray import data\n"):
        assert violations("mmbatch/catalog.py", line) == ["mmbatch/catalog.py imports ray"]
    assert violations("mmbatch/schema.py", "from mmbatch.tables import Table\n") != []
    assert violations("mmbatch/tables.py", "from mmbatch.pipelines.train import train_head\n") != []


@pytest.mark.parametrize("job", [path.stem for path in (ROOT / "jobs").glob("[a-z]*.py")])
def test_importing_a_job_loads_neither_ray_nor_torch(job: str) -> None:
    check = f"import sys, jobs.{job}; print([name for name in ('ray', 'torch', 'lightgbm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
