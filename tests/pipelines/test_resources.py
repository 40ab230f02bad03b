"""What stages ask for, how much of it fits, and what a cluster does with it."""

import os
from dataclasses import replace

import pytest

from mmbatch.pipelines.resources import (
    ENCODE,
    GIB,
    LOCAL_SPARE_CPUS,
    PREDICT,
    PREPARE,
    Ask,
    Node,
    actors_for,
    described,
    fits,
    on_gpu,
    room,
    without,
)

TASK = Ask(stage="task", memory=2 * GIB)
GPU = replace(TASK, gpus=1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")


@pytest.fixture
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("laptop")
@pytest.mark.parametrize("processors", [1, 2, 16])
def test_on_a_laptop_as_many_busy_tasks_as_processors(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert (processors + LOCAL_SPARE_CPUS) / PREDICT.options["num_cpus"] == pytest.approx(processors)


@pytest.mark.usefixtures("cluster")
def test_on_a_cluster_a_busy_task_takes_one_processor() -> None:
    assert PREDICT.options == {"num_cpus": 1, "num_gpus": 0, "memory": PREDICT.memory}


@pytest.mark.usefixtures("laptop")
def test_a_laptop_is_not_asked_for_memory() -> None:
    assert TASK.options == {"num_cpus": 1, "num_gpus": 0}
    assert room([{"CPU": 4, "memory": 1}], TASK) == 4


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("nodes", "tasks", "with_gpu"),
    [
        ([], 0, 0),
        ([{"memory": 64 * GIB}], 0, 0),  # a head that is told to work nothing
        ([{"CPU": 1.5, "memory": 8 * GIB}, {"CPU": 1.5, "memory": 8 * GIB}], 2, 0),  # halves of two machines are no one
        ([{"CPU": 16, "memory": 6 * GIB}], 3, 0),
        ([{"CPU": 16, "GPU": 4, "memory": 64 * GIB}], 16, 4),
        ([{"CPU": 2, "GPU": 4, "memory": 64 * GIB}], 2, 2),
        ([{"CPU": 2, "GPU": 0.5, "memory": 64 * GIB}, {"CPU": 8, "memory": 64 * GIB}], 10, 0),
    ],
)
def test_room_is_counted_machine_by_machine(nodes: list[Node], tasks: int, with_gpu: int) -> None:
    assert room(nodes, TASK) == tasks
    assert room(nodes, GPU) == with_gpu


@pytest.mark.usefixtures("cluster")
def test_what_is_placed_first_is_gone() -> None:
    nodes = [{"CPU": 4.0, "memory": 8.0 * GIB}, {"CPU": 2.0, "GPU": 2.0, "memory": 8.0 * GIB}]
    assert without(nodes, GPU, 2) == [nodes[0], {"CPU": 0, "GPU": 0, "memory": 4 * GIB}]
    assert fits(nodes, [(GPU, 2), (TASK, 4)])
    assert not fits(nodes, [(GPU, 2), (TASK, 5)])
    assert not fits(nodes, [(GPU, 3)])


@pytest.mark.parametrize(
    ("contents", "cpus", "gpus", "remote", "actors"),
    [
        (10**6, 4, 0, False, 2),  # a laptop of two processors, and two logical ones besides
        (10**6, 16, 0, True, 12),
        (10**6, 10, 0, True, 8),
        (10**6, 2, 0, True, 1),
        (10**6, 1, 0, True, 1),  # `require` refuses it: no reader
        (10**6, 16, 4, True, 4),
        (1200, 64, 0, True, 2),  # a start costs more than it saves
        (10, 64, 8, True, 1),
    ],
)
def test_actors_are_as_many_as_the_work_and_the_machines_are_worth(
    contents: int, cpus: int, gpus: int, remote: bool, actors: int
) -> None:
    assert actors_for(contents, cpus=cpus, gpus=gpus, remote=remote) == actors


@pytest.mark.usefixtures("cluster")
def test_plans_in_plain_words() -> None:
    assert ENCODE.describe(1) == "1 encoder x (1 CPU, 1.5 GiB)"
    assert on_gpu(ENCODE, 4).describe(4) == "4 encoders x (1 CPU, 1 GPU, 3.5 GiB)"
    assert on_gpu(ENCODE, 0) == ENCODE
    assert Ask(stage="any").describe(2) == "2 tasks x 1 CPU"
    assert described({"CPU": 16, "GPU": 4}) == "(16 CPUs, 4 GPUs)"
    assert described({}) == "0 CPU"


@pytest.mark.usefixtures("cluster")
def test_the_smallest_overlay_has_room_for_an_encoder_and_a_reader() -> None:
    """`cluster/kuberay/overlays/dev`: 4 CPUs and 6 GiB, of which Ray keeps 30 % for its object store."""
    assert fits([{"CPU": 4, "memory": 0.7 * 6 * GIB}], [(ENCODE, 1), (PREPARE, 1)])
