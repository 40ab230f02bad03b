"""Starts or joins Ray, and streams units of work through it."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmbatch.failpoints import LOG, VARIABLE
from mmbatch.isolation import Attempts
from mmbatch.pipelines.capacity import plan_tasks, require
from mmbatch.pipelines.joining import check_nodes, join
from mmbatch.pipelines.ray_failures import RETRIES, said_error
from mmbatch.pipelines.resources import FIT, LOCAL_MEMORY, LOCAL_OBJECT_STORE, LOCAL_SPARE_CPUS, WATCH, Ask, joined
from mmbatch.progress import say
from mmbatch.storage import filesystem_of, storage_errors
from mmbatch.workspace import Workspace

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(128 << 20),
}
"""glibc keeps freed tensors instead of returning them to the kernel: twice the images per second on a CPU."""


def start_ray(workspace: Workspace | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names (as inside `ray job submit`), or start a local one without services.

    Every machine of a cluster must be able to read the workspace; `ClusterError` says which one cannot.
    """
    if not ray.is_initialized():
        _start()
    if workspace and joined():
        check_nodes(workspace.uri, workspace.settings)


def _start() -> None:
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_LOGGING", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's core reports its own restart policy as errors
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    failpoints = {name: os.environ[name] for name in (VARIABLE, LOG) if name in os.environ}
    environment = {"env_vars": ALLOCATOR | {"TOKENIZERS_PARALLELISM": "false"} | failpoints}
    handler = signal.getsignal(signal.SIGTERM)
    if joined():
        join(environment, **quiet)
    else:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
        ray.init(
            address="local",
            num_cpus=(os.cpu_count() or 1) + LOCAL_SPARE_CPUS,
            object_store_memory=LOCAL_OBJECT_STORE,
            _memory=LOCAL_MEMORY,
            include_dashboard=False,
            runtime_env=environment,
            **quiet,
        )
    signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
    quiet_streams()


def quiet_streams() -> None:
    """Let the streams that this process starts raise what went wrong, and print nothing."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised too


def stream(
    units: Sequence[dict[str, Any]],
    work: Callable[[dict[str, Any]], list[dict[str, Any]]],
    *,
    ask: Ask,
) -> Iterator[dict[str, Any]]:
    """Run `work` on every unit in Ray Data tasks and yield what it returns as it arrives, in no order.

    An error that a user can act on is raised as itself, without Ray's wrapping.
    """
    if units:
        plan_tasks(ask, len(units))
        dataset = ray.data.from_items(list(units), override_num_blocks=len(units))
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # max_retries has no name of its own yet
        told = partial(_told, work)
        yield from rows_of(dataset.flat_map(told, max_retries=RETRIES, **ask.options), stage=ask.stage)


def _told(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run `work`; a store's failure is raised as the `StorageError` that says it, as its cause does not travel."""
    with storage_errors():
        return work(*arguments)


def beside_caller() -> dict[str, Any]:
    """Options of an actor that a run cannot do without: on the caller's machine, whose loss alone is its end."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return WATCH.options | {"scheduling_strategy": here}


def count_attempts() -> Any:
    """Handle of a new `Attempts` actor, for `begun`."""
    return ray.remote(Attempts).options(max_restarts=-1, max_task_retries=RETRIES, **beside_caller()).remote()


def begun(attempts: Any, unit: str) -> int:
    """Say that a unit of work begins; 1 for its first attempt, and for the second one where the first one's machine is
    lost, which is no sign of a bad record."""
    before = ray.get(attempts.begin.remote(unit, ray.get_runtime_context().get_node_id()))
    return 1 if len(before) == 1 and before[0] not in _machines() else 1 + len(before)


def _machines() -> set[str]:
    """Node ids of those that are there."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def share(value: Any) -> Any:
    """Handle of a value that every worker of a node maps instead of copying, for `shared`."""
    return ray.put(value)


def shared(handle: Any) -> Any:
    """The value behind a handle."""
    return ray.get(handle)


def rows_of(dataset: ray.data.Dataset, *, stage: str) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they arrive; what a worker failed of is raised in one line (`said_error`)."""
    try:
        yield from dataset.iter_rows()
    except (RayError, ExecutionTimeoutError) as error:
        raise said_error(error, stage) or error from None


def remove_folder(uri: str) -> None:
    """Remove a run's temporary folder, if it is there."""
    filesystem, path = filesystem_of(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


@contextmanager
def lines_from_workers() -> Iterator[Queue]:
    """A queue whose lines, put by any worker, are printed by the driver as they come."""
    queue = Queue(actor_options=beside_caller())
    printer = threading.Thread(target=_print_lines, args=(queue,), daemon=True)
    printer.start()
    try:
        yield queue
    finally:
        queue.put(None)
        printer.join()
        queue.shutdown()


def _print_lines(queue: Queue) -> None:
    while (line := queue.get()) is not None:
        say(line)


def run_task(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in one Ray task, away from the driver; what it failed of is raised in one line (`said_error`)."""
    require((FIT, 1))
    try:
        return ray.get(ray.remote(_told).options(max_retries=RETRIES, **FIT.options).remote(work, *arguments))
    except RayError as error:
        raise said_error(error, FIT.stage) or error from None
