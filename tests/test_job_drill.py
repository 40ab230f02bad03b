"""The crash drill: it finds what is lost, twice and different, and a real one of three kills finds nothing."""

import json
from itertools import cycle, islice
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from jobs.drill import own_folder, verdict
from mmbatch.drill.contents import Rows, compare, compare_rows
from mmbatch.drill.drill import Drill
from mmbatch.drill.findings import summary
from mmbatch.drill.kills import Kill, planned
from mmbatch.drill.ledger import ledger_faults
from mmbatch.drill.local_ray import LocalRay
from mmbatch.drill.processes import Night, nursery
from mmbatch.errors import InputError, MmbatchError
from mmbatch.failpoints import POINTS
from mmbatch.runs import Run
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job

VECTORS = np.eye(3, 4, dtype=np.float32)
TRUTH = Rows(["a", "b", "c"], ["x", "y", "z"], VECTORS)


def counts(truth: Rows, found: Rows) -> tuple[int, int, int]:
    difference = compare_rows("t", truth, found)
    return difference.lost, difference.twice, difference.different


def test_equal_rows_in_another_order_are_no_difference() -> None:
    assert counts(TRUTH, Rows(["c", "a", "b"], ["z", "x", "y"], VECTORS[[2, 0, 1]])) == (0, 0, 0)


def test_a_lost_a_doubled_and_a_different_row_are_counted_each() -> None:
    assert counts(TRUTH, Rows(["a", "b"], ["x", "y"], VECTORS[:2])) == (1, 0, 0)
    assert counts(TRUTH, Rows(["a", "b", "c", "b"], ["x", "y", "z", "y"], VECTORS[[0, 1, 2, 1]])) == (0, 1, 0)
    assert counts(TRUTH, Rows(["a", "b", "c"], ["x", "y", "other"], VECTORS)) == (0, 0, 1)
    assert counts(TRUTH, Rows(["a", "b", "c", "d"], ["x", "y", "z", ""], np.eye(4, dtype=np.float32))) == (0, 0, 1)


def test_every_table_is_compared_and_the_key_is_named() -> None:
    found = {"catalog": TRUTH, "images": Rows(["a"], [""])}
    difference = compare({"catalog": TRUTH, "images": Rows(["a", "b"], ["", ""])}, found)
    assert (difference.lost, difference.examples) == (1, ["images: lost b"])


@pytest.mark.parametrize(("angle", "different"), [(0.0, 0), (0.01, 0), (0.02, 1), (np.pi, 1)])
def test_vectors_are_compared_by_cosine(angle: float, different: int) -> None:
    truth = Rows(["a"], [""], np.array([[2.0, 0.0]], np.float32))
    turned = np.array([[3 * np.cos(angle), 3 * np.sin(angle)]], np.float32)
    assert counts(truth, Rows(["a"], [""], turned)) == (0, 0, different)


@pytest.mark.parametrize(("gap", "different"), [(0.0, 0), (0.0009, 0), (0.002, 1)])
def test_confidences_are_compared_by_their_difference(gap: float, different: int) -> None:
    truth, found = (Rows(["a"], ["Shoes"], np.array([[at]], np.float32)) for at in (0.5, 0.5 + gap))
    assert counts(truth, found) == (0, 0, different)


def test_a_ledger_that_does_not_tie_out_is_found(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=4))
    good = {"rows": 3, "new": 1, "edited": 1, "unchanged": 0, "rejected": 1}
    Run(workspace=workspace, job="ingest", run_id="good").finish(good)
    assert ledger_faults(workspace) == []
    Run(workspace=workspace, job="ingest", run_id="bad").finish(good | {"rows": 4})
    encoder = {"products": 2, "unchanged": 0, "computed": 1, "reused": 0, "quarantined": 0}
    Run(workspace=workspace, job="extract_features", run_id="short").finish({"encoders": {"text": encoder}})
    faults = ledger_faults(workspace)
    assert [fault.split(":")[0] for fault in faults] == ["ingest bad", "extract_features short"]


def test_twenty_kills_have_every_kind_and_forty_every_failpoint() -> None:
    kills = list(islice(planned(3), 40))
    assert {kill.kind for kill in kills[:20]} >= {"driver", "worker", "point"}
    assert {kill.kind for kill in kills} == {"driver", "worker", "raylet", "gcs_server", "point"}
    assert {kill.point for kill in kills if kill.point} == set(POINTS)
    assert kills == list(islice(planned(3), 40)) != list(islice(planned(4), 40))


def test_the_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InputError, match="no drill made it"):
        own_folder(str(tmp_path))
    folder = own_folder(str(tmp_path / "new"))
    (folder / "base").mkdir()
    assert [entry.name for entry in own_folder(str(folder)).iterdir()] == ["drill.json"]


class _NoRay:
    address = "nowhere"

    def whole(self) -> bool:
        return True


def drill(tmp_path: Path, kill: Kill) -> Drill:
    """A drill of the night that doubles, with one kind of kill."""
    ray = cast(LocalRay, _NoRay())
    made = Drill(tmp_path, "tests.doubling_night", 0, tmp_path / "base", tmp_path, ray)
    made.plan = cycle([kill])
    made.prepare(tmp_path)
    return made


def test_a_night_that_appends_again_is_found(tmp_path: Path) -> None:
    made = drill(tmp_path, Kill("point", "commit.after"))
    found = summary(made.run(1), made.unreached)
    assert (found["kills"], found["lost"], found["twice"], found["different"]) == (1, 0, 1, 0)
    assert found["by_kind"] == {"commit.after": {"kills": 1, "lost": 0, "twice": 1, "different": 0}}
    assert found["examples"] == ["catalog: twice second"]
    assert "1 rows twice" in verdict(found)
    assert (tmp_path / "found-1" / "catalog").exists()


def test_a_failpoint_that_a_night_never_reaches_is_named(tmp_path: Path) -> None:
    made = drill(tmp_path, Kill("point", "vacuum.after", 2))
    plan = iter([Kill("point", "vacuum.after", 2), Kill("point", "commit.before")])
    made.plan = plan
    found = summary(made.run(1), made.unreached)
    assert found["points_never_reached"] == ["vacuum.after"]
    assert "never reaches vacuum.after" in verdict(found)


def test_a_night_that_fails_by_itself_is_no_truth(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a file where the workspace should be")
    with pytest.raises(MmbatchError, match="fails without any kill"):
        drill(tmp_path, Kill("driver"))


@pytest.mark.slow
def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    done = run_job("drill", "--workspace", tmp_path / "drill", "--kills", 3, "--rows", 100, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 3
    assert (result["lost"], result["twice"], result["different"], result["faults"]) == (0, 0, 0, [])


def test_a_night_in_which_nothing_happens_is_given_up(tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.touch()
    night = Night(nursery("tests.silent_night"), "tests.silent_night", [], {}, tmp_path / "night.log")
    assert night.wait_for_line(within=60)
    assert not night.ends(patience_s=0.5, deaths=deaths)
    assert night.kill()
    assert night.ends(patience_s=0.5, deaths=deaths)
