"""Where encoders that start again fill what a lost node leaves, readers still find room."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data

from mmbatch.pipelines.cluster import rows_of, start_ray
from mmbatch.pipelines.delivery import through_actors
from mmbatch.pipelines.resources import ENCODE
from tests.pipelines.test_cluster_errors import cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray")]

UNITS = 12
STILL_S = 90.0
"""Of a stream in which nothing moves, before it fails."""


def read(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Large enough to lie in the object store of the node that has read it."""
    return [row | {"inputs": bytes(1 << 20)}]


class Encoder:
    """Lets the first unit through at once, and every other one when the node is lost."""

    def __init__(self, lost: Path) -> None:
        self.lost = lost

    def __call__(self, units: pa.Table) -> pa.Table:
        deadline = time.monotonic() + STILL_S
        while units["unit"][0].as_py() and not self.lost.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return units.select(["unit"])


def test_readers_find_room_beside_encoders_that_start_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with cluster_of(monkeypatch) as cluster:
        node = cluster.add_node(num_cpus=2)
        start_ray()
        monkeypatch.setattr(ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", STILL_S)
        rows = [{"unit": unit} for unit in range(UNITS)]
        seen = []
        for row in rows_of(
            through_actors(rows, read, Encoder, {"lost": tmp_path / "lost"}, pool=(ENCODE, 2)), stage="extract"
        ):
            seen.append(row["unit"])
            if len(seen) == 1:
                cluster.remove_node(node)
                (tmp_path / "lost").touch()
        assert sorted(seen) == list(range(UNITS))
