"""The overlays, rendered once; tests that break a manifest break a copy."""

from copy import deepcopy
from pathlib import Path

import pytest

from tests.cluster.rendering import KUBERAY, OVERLAYS, Manifest, find_kubectl, render


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find_kubectl(tmp_path_factory.mktemp("kubectl"))


@pytest.fixture(scope="session")
def rendered(kubectl: Path) -> dict[str, list[Manifest]]:
    return {overlay: render(kubectl, KUBERAY / "overlays" / overlay) for overlay in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    return deepcopy(rendered[request.param])


@pytest.fixture
def production(rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    return deepcopy(rendered["production"])
