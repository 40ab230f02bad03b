"""The overlays, rendered once; tests that break a manifest break a copy. And one local cluster for all that submit."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from cluster.local import Cluster
from tests.cluster.rendering import KUBERAY, OVERLAYS, Manifest, find_kubectl, render
from tests.s3.conftest import Server, environment
from tests.s3.conftest import moto as moto


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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, moto: Server) -> Iterator[Cluster]:
    """Three nodes whose environment names an object store, and holds its keys."""
    made = Cluster(tmp_path_factory.mktemp("cluster") / "state")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(moto.url).items():
            patch.setenv(name, value)
        made.up()
    yield made
    made.down()
