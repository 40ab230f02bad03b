"""Records that end their process are named, all of them, and nothing else is."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from mmbatch.isolation import Attempts, killers


def work(record: int, *, deadly: dict[int, int], log: Path) -> None:
    with log.open("a") as file:
        file.write(f"{record}\n")
    sys.stdout.write("a library's chatter")
    if deadly.get(record):
        os.kill(os.getpid(), deadly[record])
    if record in deadly:
        os._exit(3)
    if record == 1:
        raise ValueError("an error is no death")


def test_every_killer_is_named_with_what_it_did_and_every_record_is_tried_once(tmp_path: Path) -> None:
    deadly = {2: signal.SIGSEGV, 3: 0, 6: signal.SIGKILL}
    found = killers(partial(work, deadly=deadly, log=tmp_path / "log"), 7)
    assert found == {
        2: "the process that worked on it was ended by signal 11",
        3: "the process that worked on it was ended by exit status 3",
        6: "the process that worked on it was ended by signal 9",
    }
    assert (tmp_path / "log").read_text().split() == [str(record) for record in range(7)]


def test_nothing_is_named_where_nothing_dies(tmp_path: Path) -> None:
    assert killers(partial(work, deadly={}, log=tmp_path / "log"), 3) == {}
    assert killers(partial(work, deadly={}, log=tmp_path / "log"), 0) == {}


def test_earlier_attempts_are_known_by_unit() -> None:
    attempts = Attempts()
    assert [attempts.begin("a", "x"), attempts.begin("b", "x"), attempts.begin("a", "y")] == [[], [], ["x"]]
    assert attempts.begin("a", "x") == ["x", "y"]
