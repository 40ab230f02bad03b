import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from mmbatch.errors import InputError, LostRaceError
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_edits import read_edits
from mmbatch.fusion.taxonomy_version import TaxonomyVersion
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Settings, Workspace

PATHS = (("Fax",), ("Home", "Lamp"), ("Home", "Sofa"), ("Toys",))
COUCH = {("Home", "Sofa"): (("Home", "Couch"),)}
NO_FAX = {("Fax",): ()}
PARTS = {("Toys",): (("Games",), ("Dolls",))}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=2, seed=0, buckets=4))


def test_versions_come_back_in_order_and_name_what_decides(workspace: Workspace) -> None:
    empty = TaxonomyHistory.read(workspace)
    assert (empty.versions, empty.name, empty.identity("p@1")) == ((), "", "p@1")
    with workspace.writing("taxonomy") as owned:
        written = empty.add(owned, COUCH).add(owned, NO_FAX | PARTS)
    found = TaxonomyHistory.read(workspace)
    assert found == written == TaxonomyHistory((COUCH, NO_FAX | PARTS))
    assert re.fullmatch("taxonomy-000002@[0-9a-f]{12}", found.name)
    assert found.identity("p@1") == f"p@1+{found.name}"
    assert read_edits(workspace.path("taxonomy", "000001.json")) == COUCH


def test_other_edits_are_another_version_though_its_number_is_the_same() -> None:
    names = {TaxonomyHistory(versions).name for versions in ((COUCH,), (NO_FAX,), (COUCH, NO_FAX), (PARTS, NO_FAX))}
    assert len(names) == 4
    assert TaxonomyHistory((COUCH, NO_FAX)).name == TaxonomyHistory((dict(COUCH), dict(NO_FAX))).name


def test_a_version_is_written_once_and_by_the_run_whose_turn_it_is(workspace: Workspace) -> None:
    with workspace.writing("taxonomy") as owned:
        TaxonomyHistory().add(owned, COUCH)
        with pytest.raises(LostRaceError, match=r"taxonomy/000001.json: another run has written this version"):
            TaxonomyHistory().add(owned, NO_FAX)
    with workspace.writing("taxonomy"), pytest.raises(LostRaceError, match="epoch 1 is over"):
        TaxonomyHistory.read(workspace).add(owned, NO_FAX)
    assert TaxonomyHistory.read(workspace).versions == (COUCH,)


def _killed_while_naming(uri: str) -> None:
    Path.hardlink_to = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
    TaxonomyHistory().add(Workspace.open(uri), COUCH)


def test_a_process_that_is_killed_while_it_writes_has_added_nothing(workspace: Workspace) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed_while_naming, args=(workspace.uri,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(Path(workspace.path("taxonomy")).iterdir()), "it was killed between writing and naming"
    assert TaxonomyHistory.read(workspace) == TaxonomyHistory()
    assert TaxonomyHistory().add(workspace, NO_FAX) == TaxonomyHistory.read(workspace)


def test_a_missing_or_damaged_version_is_refused(workspace: Workspace) -> None:
    TaxonomyHistory((COUCH,)).add(workspace, NO_FAX)
    with pytest.raises(InputError, match=r"taxonomy: found versions \['000002.json'\], expected \['000001.json'\]"):
        TaxonomyHistory.read(workspace)
    Path(workspace.path("taxonomy", "000001.json")).write_text("{")
    with pytest.raises(InputError, match=r"taxonomy/000001.json: not JSON"):
        TaxonomyHistory.read(workspace)


def test_paths_move_through_all_versions() -> None:
    history = TaxonomyHistory((COUCH | PARTS, {("Home",): (("House",),), ("Games",): (), ("Dolls",): (("Doll",),)}))
    assert history.moved(("Home", "Sofa")) == (("House", "Couch"),)
    assert history.moved(("Home", "Lamp")) == (("House", "Lamp"),)
    assert history.moved(("Toys",)) == (("Doll",),)
    assert history.moved(("House", "Couch")) == (("House", "Couch"),)
    assert TaxonomyHistory((NO_FAX | PARTS,)).moved(("Toys",)) == (("Dolls",), ("Games",))


def test_names_of_today() -> None:
    history = TaxonomyHistory(
        (COUCH | NO_FAX | PARTS | {("Home", "Lamp"): (("Home", "Lamp"), ("Home", "Lamp", "Desk"))},)
    )
    names = ["Home > Sofa", "Home > Couch", "Fax", "Toys", "Dolls", "Home > Lamp", "unheard of"]
    assert history.current(names) == {
        "Home > Sofa": "Home > Couch",
        "Home > Couch": "Home > Couch",
        "Fax": None,
        "Toys": None,
        "Dolls": "Dolls",
        "Home > Lamp": "Home > Lamp",
        "unheard of": "unheard of",
    }


@pytest.mark.parametrize(
    ("delivered", "decisions"),
    [
        (PATHS, (("Dolls",), ("Home", "Couch"), ("Home", "Lamp"))),
        ((("Home", "Couch"), ("Home", "Lamp"), ("Dolls",)), (("Dolls",), ("Home", "Couch"), ("Home", "Lamp"))),
        ((("Home", "Sofa"), ("Home", "Couch"), ("Dolls",)), (("Dolls",), ("Home", "Couch"))),
    ],
    ids=["old names", "new names", "both"],
)
def test_a_model_may_know_old_names_new_names_or_both(delivered, decisions) -> None:
    history = TaxonomyHistory((COUCH | NO_FAX, {("Toys",): (("Dolls",),)}))
    assert history.version_of(Taxonomy(delivered)).decisions == decisions


def test_old_and_new_name_of_one_category_add_up() -> None:
    model = Taxonomy((("Fax",), ("Home", "Couch"), ("Home", "Sofa")))
    version = TaxonomyHistory((COUCH,)).version_of(model)
    shares = np.exp(version.log_probs(np.log(np.array([[0.4, 0.35, 0.25]], np.float32))))
    np.testing.assert_allclose(shares, [[0.4, 0.6]], rtol=1e-5)


def test_a_model_that_no_edit_touches_is_what_it_was() -> None:
    model = Taxonomy((("Home", "Lamp"), ("Books",)))
    assert TaxonomyHistory((COUCH, NO_FAX)).version_of(model) == TaxonomyVersion.of(model)


def test_a_model_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InputError, match=r"taxonomy-000001@\w+: every category of the model is removed"):
        TaxonomyHistory((NO_FAX,)).version_of(Taxonomy((("Fax",),)))


def test_a_step_starts_from_the_edited_tree() -> None:
    step = TaxonomyHistory((COUCH | NO_FAX,)).step({("Home", "Couch"): ()}, base=PATHS, levels=2)
    assert step.before.paths == (("Home", "Couch"), ("Home", "Lamp"), ("Toys",))
    assert step.after.taxonomy.paths == (("Home", "Lamp"), ("Toys",))


@pytest.mark.parametrize(
    "edits",
    [
        PARTS,
        {("Home",): (("Home", "Indoors"),)},  # a level is put in
        {("Toys",): (("Toys", "Dolls"),)},
        {("Toys",): (("Toys",), ("Toys", "Dolls"))},  # a new leaf
        {("Home", "Couch"): (("Home", "Sofa"),)},  # version 1 undone
    ],
)
def test_edits_that_leave_edited_names_alone_pass(edits) -> None:
    TaxonomyHistory((COUCH,)).step(edits, base=PATHS, levels=3)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({("Bed",): ()}, "old path 'Bed' is unknown"),
        (NO_FAX, "old path 'Fax' is gone since version 1: it was removed"),
        (COUCH, "old path 'Home > Sofa' is gone since version 1: it is 'Home > Seat' and 'Home > Settee'"),
        ({("Toys",): (("Toys",),)}, "no category changes"),
        ({("Toys",): (("A", "B", "C"),)}, "path 'A > B > C' has 3 levels, this workspace has at most 2"),
        ({("Home",): (("A", "B"),)}, "path 'A > B > Lamp' has 3 levels"),
        ({("Toys",): (("Home", "Sofa"),)}, "new path 'Home > Sofa' is also an old one"),
        ({("Toys",): (("Home", "Lamp"),), ("Home", "Lamp"): (("Light",),)}, "new path 'Home > Lamp' is also an old"),
        ({("Toys",): (("Toys",), ("Dolls",))}, "new path 'Toys' is also an old one"),
        ({("Toys",): (), ("Home",): ()}, "every category is removed"),
    ],
)
def test_edits_that_cannot_be_the_next_version_are_refused(edits, message) -> None:
    seats = {("Home", "Couch"): (("Home", "Seat"), ("Home", "Settee"))}
    with pytest.raises(InputError, match=f"^taxonomy edits: {message}") as caught:
        TaxonomyHistory((COUCH | NO_FAX, seats)).step(edits, base=PATHS, levels=2)
    assert "\n" not in str(caught.value)
