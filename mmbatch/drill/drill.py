"""The drill itself: rounds of kills and restarts, each compared with a night that nobody disturbed."""

import shutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from mmbatch.drill.contents import compare, compare_rows, contents, predictions
from mmbatch.drill.findings import Findings
from mmbatch.drill.kills import Kill, planned
from mmbatch.drill.ledger import ledger_faults
from mmbatch.drill.local_ray import LocalRay, kill
from mmbatch.drill.processes import Night, nursery
from mmbatch.errors import MmbatchError
from mmbatch.failpoints import LOG, VARIABLE
from mmbatch.progress import Progress, say
from mmbatch.workspace import Workspace

PREPARATION_S = 900.0
"""After which a night that nobody disturbs counts as hung: a machine may be busy, but not that busy."""

PATIENCE = 8
"""A night in which nothing happens for so many times the undisturbed one's length, and `MIN_PATIENCE_S`, hangs."""

MIN_PATIENCE_S = 60.0

MAX_FAULTS = 20
"""After so many the drill ends: whatever is wrong is not a matter of chance."""

WORKER_KILLS = 3
"""Workers that are killed one after the other in one night, if it lives so long."""


class Shot(NamedTuple):
    """A kill that was made."""

    kind: str
    what: str
    after_s: float


@dataclass
class Drill:
    """One drill in a folder of its own."""

    folder: Path
    module: str
    """Whose `command()` is the night."""
    seed: int
    base: Path
    source: Path
    """The night's snapshot."""
    ray: LocalRay

    def __post_init__(self) -> None:
        self.rng = Random(f"drill/{self.seed}")
        self.plan = planned(self.seed)
        self.again: deque[Kill] = deque()
        self.unreached: set[str] = set()
        self.findings = Findings()
        self.context = nursery(self.module)
        self.night: Night | None = None

    def stop(self) -> None:
        """End what runs: the night, when somebody interrupts the drill, and Ray."""
        if self.night is not None:
            self.night.kill()
        self.ray.stop()

    def prepare(self, before: Path) -> None:
        """Make the base workspace, and measure a night that nobody disturbs: its end is the truth."""
        say("prepare    a workspace with encoders, a predictor and yesterday's catalog")
        self._undisturbed(self.base, before, "--first")
        self.published = predictions(Workspace.open(str(self.base)))
        say("prepare    a night that nobody disturbs")
        truth = self._copy("truth")
        self.length_s = self._undisturbed(truth, self.source)
        self.patience_s = MIN_PATIENCE_S + PATIENCE * self.length_s
        self.truth = contents(Workspace.open(str(truth)))
        held = ", ".join(f"{name} {len(rows.keys)}" for name, rows in self.truth.items())
        say(f"prepare    the night takes {self.length_s:.1f} s and ends with {held} rows")
        if not compare_rows("predictions", self.published, self.truth["predictions"]):
            raise MmbatchError("the drill's night changes nothing: there is nothing to lose")
        if doubled := [name for name, rows in self.truth.items() if len(set(rows.keys)) < len(rows.keys)]:
            raise MmbatchError(f"a night that nobody disturbed leaves rows twice in {', '.join(doubled)}")

    def run(self, kills: int) -> Findings:
        """Kill nights until so many kills are made; every round ends with a night that ends by itself."""
        progress = Progress("drill", kills, "kills")
        while self.findings.kills.total() < kills and len(self.findings.faults) < MAX_FAULTS:
            self.findings.rounds += 1
            self._round(kills, progress)
        return self.findings

    def _round(self, kills: int, progress: Progress) -> None:
        workspace, kinds, fresh = self._copy("round"), set[str](), True
        while True:
            left = kills - self.findings.kills.total()
            planned_kill = self._next(fresh) if left > 0 else None
            shots, code = self._night(workspace, planned_kill, left)
            for shot in shots:
                kinds.add(shot.kind)
                self.findings.kills[shot.kind] += 1
                self._say(shot, code, workspace)
                progress.advance(1)
            if shots:
                self._look(workspace, {shot.kind for shot in shots})
            elif code != 0:
                self.findings.faults.append(f"exit code {code} without a kill: {self._keep(workspace)}")
                break
            if planned_kill is not None and planned_kill.kind == "point" and not shots:
                self._missed(planned_kill, fresh)
            fresh = False
            if code == 0:
                break
        if code == 0:
            self._compare(workspace, kinds)

    def _next(self, fresh: bool) -> Kill:
        return self.again.popleft() if fresh and self.again else next(self.plan)

    def _missed(self, missed: Kill, fresh: bool) -> None:
        """A failpoint was not reached so often: try its first time, in a night that has everything to do."""
        if fresh and missed.count == 1:
            self.unreached.add(missed.point)
        elif missed.point not in {*self.findings.kills, *(waiting.point for waiting in self.again)}:
            self.again.append(Kill("point", missed.point))

    def _night(self, workspace: Path, planned_kill: Kill | None, left: int) -> tuple[list[Shot], int | None]:
        """One night with one kind of kill; what was killed, and how it ended."""
        if not self.ray.whole():
            self.ray.restart()
        log = self.folder / "failpoint.log"
        log.write_bytes(b"")
        environment = {"RAY_ADDRESS": self.ray.address, LOG: str(log)}
        if planned_kill is not None and planned_kill.point:
            environment[VARIABLE] = f"{planned_kill.point}:{planned_kill.count}"
        night = self._start(workspace, self.source, environment)
        shots = []
        if planned_kill is not None and night.wait_for_line(within=self.patience_s):
            shots = list(self._shoot(night, planned_kill, left))
        if not night.ends(patience_s=self.patience_s, deaths=log):
            self.findings.faults.append(f"nothing for {self.patience_s:.0f} s, last line: {night.last_line()}")
            night.kill()
        if planned_kill is not None and planned_kill.point and (dead := log.read_text().splitlines()):
            what = f"{environment[VARIABLE]} {len(dead)} process(es)"
            shots = [Shot(planned_kill.point, what, time.monotonic() - night.began)]
        return shots, night.exit_code

    def _shoot(self, night: Night, planned_kill: Kill, left: int) -> Iterator[Shot]:
        """Kill what the plan says at a random time after the night's first line; nothing if it ends before."""
        if planned_kill.kind == "point":
            return
        times = min(left, WORKER_KILLS) if planned_kill.kind == "worker" else 1
        for _ in range(times):
            if night.ended(within=self.rng.uniform(0, self.length_s)):
                return
            what = self._kill(night, planned_kill)
            if what:
                yield Shot(planned_kill.kind, what, time.monotonic() - night.began)

    def _kill(self, night: Night, planned_kill: Kill) -> str:
        """Kill one process of the kind; what that was, nothing where there is none."""
        if planned_kill.kind == "driver":
            return "process group" if night.kill() else ""
        workers = self.ray.workers()
        if planned_kill.kind != "worker":
            workers = [(pid, planned_kill.kind) for pid in self.ray.named(planned_kill.kind)]
        pid, title = self.rng.choice(workers) if workers else (0, "")
        return title if pid and kill(pid) else ""

    def _look(self, workspace: Path, kinds: set[str]) -> None:
        """What consumers read after a kill is the last publication or tonight's, whole."""
        now = predictions(Workspace.open(str(workspace)))
        before = compare_rows("predictions", self.published, now)
        if before and (after := compare_rows("predictions", self.truth["predictions"], now)):
            self.findings.add(kinds, min(before, after, key=lambda found: found.lost + found.twice + found.different))
            self.findings.faults.append(f"half a publication is visible: {self._keep(workspace)}")

    def _compare(self, workspace: Path, kinds: set[str]) -> None:
        opened = Workspace.open(str(workspace))
        found = compare(self.truth, contents(opened))
        faults = ledger_faults(opened)
        self.findings.add(kinds, found)
        self.findings.faults += faults
        if found or faults:
            say(f"FOUND      {found}, ledger {faults}; kept as {self._keep(workspace)}")

    def _keep(self, workspace: Path) -> Path:
        """Set a workspace aside for whoever looks into it."""
        kept = self.folder / f"found-{self.findings.rounds}"
        if not kept.exists():
            shutil.copytree(workspace, kept)
            shutil.copy(self.folder / "night.log", kept / "night.log")
        return kept

    def _say(self, shot: Shot, code: int | None, workspace: Path) -> None:
        held = {name: len(rows.keys) for name, rows in contents(Workspace.open(str(workspace))).items()}
        committed = " ".join(f"{name.rpartition('/')[2]} {rows}" for name, rows in held.items())
        number = self.findings.kills.total()
        say(
            f"kill {number:<5} {shot.kind:<16} {shot.what[:40]:<40} after {shot.after_s:5.1f} s"
            f"  exit {code!s:>4}  committed: {committed}"
        )

    def _start(self, workspace: Path, source: Path, environment: dict[str, str], *flags: str) -> Night:
        command = ["--workspace", str(workspace), "--source", str(source), *flags]
        self.night = Night(self.context, self.module, command, environment, self.folder / "night.log")
        return self.night

    def _undisturbed(self, workspace: Path, source: Path, *flags: str) -> float:
        """Run a night to its end; its length from its first line on, in seconds."""
        night = self._start(workspace, source, {"RAY_ADDRESS": self.ray.address}, *flags)
        night.wait_for_line(within=PREPARATION_S)
        began = time.monotonic()
        if not night.ended(within=PREPARATION_S) or night.exit_code != 0:
            night.kill()
            raise MmbatchError(f"the drill's night fails without any kill: {night.last_line()}")
        return time.monotonic() - began

    def _copy(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return Path(shutil.copytree(self.base, self.folder / name))
