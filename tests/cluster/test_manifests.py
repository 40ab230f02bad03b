from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.checks import CHECKS, containers, odd_command, pinned_ray
from tests.cluster.rendering import Manifest, one

JOBS = ("mmbatch-finetune", "mmbatch-nightly", "mmbatch-pipeline")


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_wrong(manifests: list[Manifest], check: str) -> None:
    assert CHECKS[check](manifests) == []


def cluster(manifests: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = one(manifests, "RayJob", "mmbatch-nightly")["spec"]["rayClusterSpec"]
    return found


def worker(manifests: list[Manifest]) -> dict[str, Any]:
    """The pod of the first group of workers of the nights."""
    found: dict[str, Any] = cluster(manifests)["workerGroupSpecs"][0]["template"]["spec"]
    return found


def container(manifests: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = worker(manifests)["containers"][0]
    return found


def spec(manifests: list[Manifest], kind: str = "RayJob") -> dict[str, Any]:
    found: dict[str, Any] = one(manifests, kind, "mmbatch-nightly")["spec"]
    return found


def starter(manifests: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = spec(manifests, "CronJob")["jobTemplate"]["spec"]
    return found


def rule(manifests: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = one(manifests, "Role", "mmbatch-start")["rules"][0]
    return found


KEY = {"name": "AWS_SECRET_ACCESS_KEY", "value": "of no account"}
OTHER = {"name": "AWS_ENDPOINT", "value": "https://s3.example.org"}

BROKEN: list[tuple[str, str, Callable[[list[Manifest]], object]]] = [
    ("resources", "limits of memory missing", lambda all: container(all)["resources"]["limits"].pop("memory")),
    ("resources", "requests of cpu missing", lambda all: container(all).pop("resources")),
    ("rights in the container", "privileged", lambda all: container(all)["securityContext"].update(privileged=True)),
    ("rights in the container", "may gain rights", lambda all: container(all).pop("securityContext")),
    (
        "rights in the container",
        "writable root",
        lambda all: container(all)["securityContext"].pop("readOnlyRootFilesystem"),
    ),
    ("rights in the container", "may run as root", lambda all: worker(all).pop("securityContext")),
    ("rights in the container", "hostNetwork", lambda all: worker(all).update(hostNetwork=True)),
    (
        "rights in the container",
        "host path",
        lambda all: worker(all)["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    ),
    ("images", "mmbatch:latest", lambda all: container(all).update(image="registry.example.org/mmbatch:latest")),
    ("images", ": mmbatch", lambda all: container(all).update(image="mmbatch")),
    ("literal secrets", "AWS_SECRET_ACCESS_KEY", lambda all: container(all)["env"].append(KEY)),
    (
        "literal secrets",
        "Secret mmbatch-s3",
        lambda all: all.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mmbatch-s3"}}),
    ),
    (
        "secrets",
        "secret mmbatch-s4 is made by no command",
        lambda all: container(all)["envFrom"][0]["secretRef"].update(name="mmbatch-s4"),
    ),
    (
        "secrets",
        "secret mmbatch-s3 is optional",
        lambda all: container(all)["envFrom"][0]["secretRef"].update(optional=True),
    ),
    ("workspaces", "no object store", lambda all: container(all).update(envFrom=[])),
    (
        "workspaces",
        "/workspace is on no shared volume",
        lambda all: spec(all).update(entrypoint="python -m jobs.nightly --workspace /workspace"),
    ),
    ("references", "volume tmp", lambda all: worker(all).update(volumes=[])),
    ("references", "ServiceAccount ray", lambda all: worker(all).update(serviceAccountName="ray")),
    (
        "references",
        "ConfigMap start",
        lambda all: starter(all)["template"]["spec"]["volumes"][0]["configMap"].update(name="start"),
    ),
    ("variables", "AWS_ENDPOINT", lambda all: container(all)["env"].append(OTHER)),
    ("clusters", "Ray 2.59.0", lambda all: cluster(all).update(rayVersion="2.59.0")),
    ("clusters", "no token", lambda all: cluster(all).pop("authOptions")),
    ("clusters", "work on the head", lambda all: cluster(all)["headGroupSpec"]["rayStartParams"].pop("num-cpus")),
    ("clusters", "cpu has 99 workers", lambda all: cluster(all)["workerGroupSpecs"][0].update(replicas=99)),
    ("clusters", "drains 90 s of 30 s", lambda all: worker(all).pop("terminationGracePeriodSeconds")),
    ("clusters", "drains 0 s", lambda all: container(all)["env"].clear()),
    ("starters", "runs beside itself", lambda all: spec(all, "CronJob").update(concurrencyPolicy="Allow")),
    ("starters", "no deadline", lambda all: spec(all, "CronJob").pop("startingDeadlineSeconds")),
    ("starters", "gives up", lambda all: starter(all).update(activeDeadlineSeconds=3600)),
    ("starters", "tries again", lambda all: starter(all).pop("backoffLimit")),
    ("starters", "is no pattern", lambda all: spec(all).update(suspend=False)),
    (
        "starters",
        "starts ['mmbatch-night']",
        lambda all: starter(all)["template"]["spec"]["containers"][0].update(args=["mmbatch-night"]),
    ),
    ("rights in Kubernetes", "delete", lambda all: rule(all)["verbs"].append("delete")),
    ("rights in Kubernetes", "pods", lambda all: rule(all)["resources"].append("pods")),
    (
        "entrypoints",
        "no job: python -m jobs.night",
        lambda all: spec(all).update(entrypoint="python -m jobs.night --workspace ws"),
    ),
    (
        "entrypoints",
        "--sauce",
        lambda all: spec(all).update(entrypoint="python -m jobs.nightly --workspace ws --sauce file"),
    ),
    (
        "entrypoints",
        "a shell would read it otherwise",
        lambda all: spec(all).update(entrypoint="python -m jobs.nightly --workspace ws --source tonight/*.csv"),
    ),
]


@pytest.mark.parametrize(("check", "said", "damage"), BROKEN, ids=[f"{name}: {said}" for name, said, _ in BROKEN])
def test_what_is_wrong_is_found(
    production: list[Manifest], check: str, said: str, damage: Callable[[list[Manifest]], object]
) -> None:
    damage(production)
    found = CHECKS[check](production)
    assert said in "\n".join(found)
    assert [name for name, run in CHECKS.items() if run(production)] == [check]


def test_every_check_has_been_seen_red() -> None:
    assert {check for check, _, _ in BROKEN} == {*CHECKS}


def test_production_trains_on_gpus_and_dev_needs_none(rendered: dict[str, list[Manifest]]) -> None:
    gpus = {
        overlay: [
            where
            for where, found in containers(manifests)
            if "nvidia.com/gpu" in found.get("resources", {}).get("limits", {})
        ]
        for overlay, manifests in rendered.items()
    }
    assert gpus["dev"] == []
    assert len(gpus["production"]) == 1 + len(JOBS)


def test_ray_jobs_have_the_cluster_of_the_ray_cluster_all_there_from_the_start(manifests: list[Manifest]) -> None:
    stays = one(manifests, "RayCluster", "mmbatch")["spec"]
    for name in JOBS:
        copied = one(manifests, "RayJob", name)["spec"]["rayClusterSpec"]
        assert {part: copied[part] for part in ("headGroupSpec", "workerGroupSpecs")} == {
            part: stays[part] for part in ("headGroupSpec", "workerGroupSpecs")
        }
        assert "enableInTreeAutoscaling" not in copied
    assert stays["enableInTreeAutoscaling"] is True


def test_workers_are_on_spot_machines_and_heads_are_not(production: list[Manifest]) -> None:
    parts = one(production, "RayCluster", "mmbatch")["spec"]
    kept, taken = {"karpenter.sh/capacity-type": "on-demand"}, {"karpenter.sh/capacity-type": "spot"}
    assert parts["headGroupSpec"]["template"]["spec"]["nodeSelector"] == kept
    assert [group["template"]["spec"]["nodeSelector"] for group in parts["workerGroupSpecs"]] == [taken, taken]
    keys = [{each["key"] for each in group["template"]["spec"]["tolerations"]} for group in parts["workerGroupSpecs"]]
    spot = {"karpenter.sh/capacity-type", "cloud.google.com/gke-spot"}
    assert keys == [spot, spot | {"nvidia.com/gpu"}]


def test_only_the_night_has_a_schedule(manifests: list[Manifest]) -> None:
    suspended = {
        each["metadata"]["name"]: each["spec"].get("suspend", False) for each in manifests if each["kind"] == "CronJob"
    }
    assert suspended == {"mmbatch-finetune": True, "mmbatch-nightly": False, "mmbatch-pipeline": True}


def test_ray_of_the_manifests_is_the_one_that_is_installed() -> None:
    ray = pytest.importorskip("ray")
    assert pinned_ray() == ray.__version__


def test_a_command_of_another_program_is_no_job() -> None:
    assert odd_command(["bash", "-c", "true"]) == ["no job: bash -c true"]
