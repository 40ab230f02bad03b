import re
import shlex

import pytest

from cluster.local import STOP_S
from tests.cluster.checks import documented_secrets, odd_command
from tests.cluster.rendering import KUBERAY, ROOT, Manifest, one

PAGE = (ROOT / "docs/cluster.md").read_text()
COMMANDS = re.sub(r"\\\n\s+", "", "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)))


def test_files_that_the_page_names_are_there() -> None:
    named = {*re.findall(r"(?<![\w.])cluster/[\w./-]+", COMMANDS)} - {"cluster/kuberay/overlays/ours"}
    assert {"cluster/aws.yaml", "cluster/kuberay/overlays/production", "cluster/object-store.env"} == named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("kind", ["cronjob", "rayjob"])
def test_objects_that_the_page_names_are_there(production: list[Manifest], kind: str) -> None:
    kinds = {"cronjob": "CronJob", "rayjob": "RayJob"}
    named = re.findall(rf"{kind}[/ ](mmbatch-[a-z]+)", COMMANDS)
    assert named
    for name in named:
        one(production, kinds[kind], name)


def test_jobs_that_the_page_submits_are_jobs() -> None:
    submitted = re.findall(r"-- (python -m .*)", COMMANDS)
    assert len(submitted) == 4
    assert [wrong for command in submitted for wrong in odd_command(shlex.split(command, comments=True))] == []


def test_every_component_is_explained() -> None:
    explained = {*re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)}
    assert explained | {"jobs"} == {each.name for each in (KUBERAY / "components").iterdir()}


def test_the_page_makes_the_secret_that_the_manifests_refer_to() -> None:
    assert documented_secrets() == {"mmbatch-s3"}
    assert "mmbatch-s3" in (ROOT / "cluster/object-store.env").read_text()


def test_the_time_to_end_that_the_page_promises_is_the_one_that_is_set(production: list[Manifest]) -> None:
    head = one(production, "RayCluster", "mmbatch")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    seconds = {each["name"]: each["value"] for each in head["env"]}["RAY_JOB_STOP_WAIT_TIME_S"]
    assert f"within {seconds} s" in PAGE
    assert int(seconds) == STOP_S
    assert f"otherwise; {STOP_S} s here" in PAGE


def test_targets_that_the_page_makes_are_there() -> None:
    made = re.findall(r"^make (\S+)", COMMANDS, re.MULTILINE)
    assert made == ["cluster-up", "cluster-demo", "cluster-down"]
    rules = (ROOT / "Makefile").read_text()
    assert [target for target in made if not re.search(rf"^{target}:", rules, re.MULTILINE)] == []
