"""Plans, waits and refusals on a real cluster: a head that works nothing, a machine of CPUs, and one with two GPUs."""

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

from mmbatch.errors import ClusterError, InputError
from mmbatch.pipelines import capacity
from mmbatch.pipelines.capacity import encoders_for, processors, require, threads_here
from mmbatch.pipelines.cluster import rows_of, run_task, start_ray, stream
from mmbatch.pipelines.delivery import through_actors
from mmbatch.pipelines.resources import MERGE, TRAIN, Ask, on_gpu
from mmbatch.pipelines.training_run import crew_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray")]

STORE_BYTES = 100 << 20
UNITS = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        found = Cluster(initialize_head=True, head_node_args=head)
        found.add_node(num_cpus=4, object_store_memory=STORE_BYTES)
        found.add_node(num_cpus=2, num_gpus=2, object_store_memory=STORE_BYTES)
        patch.setenv("RAY_ADDRESS", found.address)
        start_ray()
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Waits as little as there is to wait for; the lines that are said."""
    said: list[str] = []
    monkeypatch.setattr(capacity, "JOIN_S", 1.0)
    monkeypatch.setattr(capacity, "INTERVAL_S", 0.5)
    monkeypatch.setattr(capacity, "say", said.append)
    return said


def node_with(resource: str) -> str:
    return next(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(resource))


def prepare(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Long enough that all who prepare are busy at once."""
    from math import sqrt

    for number in range(3_000_000):
        sqrt(number)
    return [row | {"prepared": ray.get_runtime_context().get_node_id()}]


class Encoder:
    def __init__(self) -> None:
        self.node = ray.get_runtime_context().get_node_id()

    def __call__(self, units: pa.Table) -> pa.Table:
        return units.append_column("encoded", pa.array([f"{self.node} {os.getpid()}"] * len(units)))


@pytest.mark.usefixtures("cluster")
def test_encoders_have_every_gpu_and_readers_keep_off_their_machine(impatient: list[str]) -> None:
    pool = encoders_for("extract", 10**6)
    assert pool[1] == 2
    assert pool[0].gpus == 1
    assert impatient == [
        "plan       extract: 2 encoders x (1 CPU, 1 GPU, 3.5 GiB), 4 readers x (1 CPU, 1 GiB);"
        " the cluster has 6 CPUs, 2 GPUs on 3 nodes"
    ]
    units = [{"unit": number} for number in range(UNITS)]
    done = list(rows_of(through_actors(units, prepare, Encoder, {}, pool=pool), stage="extract"))
    assert sorted(row["unit"] for row in done) == list(range(UNITS))
    gpu = node_with("GPU")
    assert gpu not in {row["prepared"] for row in done}
    encoders = {row["encoded"] for row in done}
    assert len(encoders) == 2
    assert {encoder.split()[0] for encoder in encoders} == {gpu}


def here(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"node": ray.get_runtime_context().get_node_id()}]


@pytest.mark.usefixtures("cluster")
def test_no_work_on_a_head_without_processors() -> None:
    head = node_with("node:__internal_head__")
    nodes = {row["node"] for row in stream([{"unit": number} for number in range(12)], here, ask=MERGE)}
    assert nodes
    assert head not in nodes | {run_task(here, {})[0]["node"]}


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_is_too_small_is_refused(impatient: list[str]) -> None:
    with pytest.raises(ClusterError) as caught:
        require((Ask(stage="predict", cpus=5), 1))
    assert str(caught.value).startswith(
        "predict: asks for 1 task x 5 CPUs at once; the cluster has 6 CPUs, 2 GPUs on 3 nodes, the largest of which has"
        " 4 CPUs, "
    )
    assert caught.value.exit_code == InputError.exit_code == 2
    assert impatient
    assert all("waiting    for 1 task x 5 CPUs: the cluster has 6 CPUs" in line for line in impatient)


@pytest.mark.usefixtures("cluster")
def test_workers_without_a_gpu_each_are_refused(impatient: list[str]) -> None:
    with pytest.raises(
        ClusterError, match=r"train: asks for 4 workers x \(1 CPU, 1 GPU, 5 GiB\), .* 6 CPUs, 2 GPUs on"
    ):
        crew_of((4, 4))
    assert crew_of((1, 4)).gpus
    assert "plan       train: 2 workers x (1 CPU, 1 GPU, 5 GiB); the cluster has 6 CPUs, 2 GPUs on 3 nodes" in impatient
    assert (crew_of(None).least, crew_of(None).most) == (2, 2)


def test_a_machine_that_joins_is_waited_for(
    cluster: Cluster, impatient: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started when the wait is first spoken of."""
    monkeypatch.setattr(capacity, "JOIN_S", 60.0)
    joined: list[Any] = []

    def add(line: str) -> None:
        impatient.append(line)
        if not joined:
            joined.append(cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE_BYTES, wait=False))

    monkeypatch.setattr(capacity, "say", add)
    require((on_gpu(TRAIN, 1), 3))
    assert processors() == (7, 3)
    cluster.remove_node(joined[0])
    assert "3 workers x (1 CPU, 1 GPU, 5 GiB): the cluster has 6 CPUs, 2 GPUs" in impatient[0]


def threads(asked: int | None, workers: int) -> int:
    return threads_here(asked, workers)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("asked", "workers", "found"), [(None, 1, 2), (None, 2, 1), (None, 4, 1), (6, 2, 3)])
def test_training_threads_are_those_of_the_worker_s_machine(asked: int | None, workers: int, found: int) -> None:
    """A task with a GPU runs on the machine of two processors."""
    task = ray.remote(num_cpus=0, num_gpus=1)(threads)
    assert ray.get(task.remote(asked, workers)) == found
