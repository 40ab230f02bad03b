"""Versions of the category tree on S3: one writer wins, and a lost answer is no other version."""

import pytest

from mmbatch.errors import LostRaceError
from mmbatch.fusion.taxonomy_edits import Edits
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Settings, Workspace
from tests.s3.proxy import FaultProxy, fault_at

EDITS: Edits = {("Fax",): (), ("소파",): (("가구", "소파"),)}


def test_a_version_is_written_once_and_read_again(bucket: str, faulty: FaultProxy) -> None:
    workspace = Workspace.create(f"{bucket}/w", Settings(preset="sample", level=2, seed=0, buckets=4))
    assert TaxonomyHistory.read(workspace) == TaxonomyHistory()
    faulty.plan = fault_at(r"/taxonomy/000001\.json", "lost", method="PUT")
    with workspace.writing("taxonomy") as owned:
        written = TaxonomyHistory().add(owned, EDITS)
        with pytest.raises(LostRaceError, match=r"000001\.json: another run has written this version"):
            TaxonomyHistory().add(owned, {})
    assert faulty.injected == {"lost": 1}
    assert TaxonomyHistory.read(workspace) == written == TaxonomyHistory((EDITS,))
