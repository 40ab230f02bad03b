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
from ray.exceptions import RayError
from ray.util.queue import Queue

from mmbatch.errors import MmbatchError
from mmbatch.failpoints import LOG, VARIABLE
from mmbatch.isolation import Attempts
from mmbatch.progress import say
from mmbatch.storage import filesystem_of, storage_errors

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(128 << 20),
}
"""glibc keeps freed tensors instead of returning them to the kernel: twice the images per second on a CPU."""

LOCAL_OBJECT_STORE = 1 << 30
"""Bytes of shared memory on a laptop: a few blocks of decoded images."""

LOCAL_SPARE_CPUS = 2
"""Logical CPUs beyond the real ones on a laptop: a training controller or an actor pool must not starve the readers."""

RETRIES = 2
"""How often a unit whose worker has died is given to another one: once to find the record that ended its process, once
for a lost machine. By default Ray Data does so for ever."""


def start_ray() -> None:
    """Join the cluster that `RAY_ADDRESS` names (as inside `ray job submit`), or start a local one without services."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_LOGGING", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's core reports its own restart policy as errors
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    failpoints = {name: os.environ[name] for name in (VARIABLE, LOG) if name in os.environ}
    environment = {"env_vars": ALLOCATOR | {"TOKENIZERS_PARALLELISM": "false"} | failpoints}
    handler = signal.getsignal(signal.SIGTERM)
    if joined():
        ray.init(runtime_env=environment, **quiet)
    else:
        ray.init(
            address="local",
            num_cpus=(os.cpu_count() or 1) + LOCAL_SPARE_CPUS,
            object_store_memory=LOCAL_OBJECT_STORE,
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
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Iterator[dict[str, Any]]:
    """Run `work` on every unit in Ray Data tasks and yield what it returns as it arrives, in no order.

    An error that a user can act on is raised as itself, without Ray's wrapping.
    """
    if units:
        dataset = ray.data.from_items(list(units), override_num_blocks=len(units))
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # max_retries has no name of its own yet
        told = partial(_told, work)
        yield from rows_of(dataset.flat_map(told, num_cpus=num_cpus, num_gpus=num_gpus, max_retries=RETRIES))


def whole_processor() -> float:
    """`num_cpus` of tasks that are to be no more than there are processors, as each holds much and keeps one busy.

    On a laptop Ray is told of more than there are.
    """
    return 1.0 if joined() else 1 + LOCAL_SPARE_CPUS / (os.cpu_count() or 1)


def _told(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run `work`; a store's failure is raised as the `StorageError` that says it, as its cause does not travel."""
    with storage_errors():
        return work(*arguments)


def count_attempts() -> Any:
    """Handle of a new `Attempts` actor, for `begun`."""
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=RETRIES)(Attempts).remote()


def begun(attempts: Any, unit: str) -> int:
    """Say that a unit of work begins; 1 for its first attempt."""
    return int(ray.get(attempts.begin.remote(unit)))


def share(value: Any) -> Any:
    """Handle of a value that every worker of a node maps instead of copying, for `shared`."""
    return ray.put(value)


def shared(handle: Any) -> Any:
    """The value behind a handle."""
    return ray.get(handle)


def rows_of(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they arrive; an `MmbatchError` raised by a worker is raised as itself."""
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        raise _own_error(error) or error from None


def _own_error(error: BaseException | None) -> MmbatchError | None:
    while error is not None:
        cause = getattr(error, "cause", None)
        if isinstance(cause, MmbatchError) and not isinstance(cause, RayError):
            return type(cause)(str(cause).partition("\n")[0])  # Ray Data adds lines about its own retries
        error = cause or error.__cause__
    return None


def joined() -> bool:
    """Whether Ray is a cluster that was there before, and not this job's own."""
    return bool(os.environ.get("RAY_ADDRESS"))


def processors() -> tuple[int, int]:
    """Logical CPUs and GPUs of the cluster."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(found["CPU"]), int(found.get("GPU", 0))


def remove_folder(uri: str) -> None:
    """Remove a run's temporary folder, if it is there."""
    filesystem, path = filesystem_of(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


@contextmanager
def lines_from_workers() -> Iterator[Queue]:
    """A queue whose lines, put by any worker, are printed by the driver as they come."""
    queue = Queue(actor_options={"num_cpus": 0})
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
    """Run a function in one Ray task, away from the driver; an `MmbatchError` that it raises is raised as itself."""
    try:
        return ray.get(ray.remote(_told).options(num_cpus=1, max_retries=1).remote(work, *arguments))
    except RayError as error:
        raise _own_error(error) or error from None
