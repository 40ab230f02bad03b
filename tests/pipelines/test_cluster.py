import os

import pytest

from mmbatch.pipelines.cluster import LOCAL_SPARE_CPUS, whole_processor


def test_as_many_busy_tasks_as_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for processors in (1, 2, 16):
        monkeypatch.setattr(os, "cpu_count", lambda processors=processors: processors)
        assert (processors + LOCAL_SPARE_CPUS) / whole_processor() == pytest.approx(processors)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert whole_processor() == 1
