"""Nights as processes of their own: forked from one that has imported everything, each in a session of its own."""

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path


class Night:
    """One run of the night; its lines go to a file."""

    def __init__(
        self, context: ForkServerContext, main: str, flags: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Start it: `main` names a module whose `main()` parses `flags` and ends the process."""
        self.log = log
        log.write_bytes(b"")
        self.process = context.Process(target=_run, args=(main, list(flags), dict(environment), str(log)))
        self.process.start()
        self.began = time.monotonic()

    def ended(self, *, within: float) -> bool:
        """Whether it ends within so many seconds."""
        self.process.join(max(0.0, within))
        return self.process.exitcode is not None

    def ends(self, *, patience_s: float, deaths: Path) -> bool:
        """Wait until it has ended; False when it goes on and nothing has happened for so long: no line, no death.

        A failpoint that kills every process at its second file leaves one file a process: slow, and no standstill. Ten
        times the patience is the end in any case.
        """
        while not self.ended(within=1.0):
            last = max(file.stat().st_mtime for file in (self.log, deaths))
            if time.time() - last > patience_s or time.monotonic() - self.began > 10 * patience_s:
                return False
        return True

    def wait_for_line(self, *, within: float) -> bool:
        """Wait until it has printed something; False when it ended, or was silent for so long."""
        deadline = time.monotonic() + within
        while not self.log.stat().st_size:
            if self.ended(within=0.05) or time.monotonic() > deadline:
                return False
        return True

    def kill(self) -> bool:
        """SIGKILL its whole process group; False when it had ended before."""
        if self.process.exitcode is None and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        return self.exit_code == -signal.SIGKILL

    @property
    def exit_code(self) -> int | None:
        """As a shell's `$?`, negative for a signal; None while it runs."""
        return self.process.exitcode

    def last_line(self) -> str:
        """The last that it printed."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""


def nursery(module: str) -> ForkServerContext:
    """Where nights are forked from: a process that imports `module` once, as the imports take longer than the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _run(module: str, flags: list[str], environment: dict[str, str], log: str) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    sys.argv = [module, *flags]
    main: Callable[[], None] = importlib.import_module(module).command
    main()
