from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_changes import Change, changes
from mmbatch.fusion.taxonomy_version import TaxonomyVersion

TREE = Taxonomy((("Fax",), ("Home", "Lamp"), ("Home", "Sofa"), ("Toys",)))
START = TaxonomyVersion.of(TREE)


def test_each_category_that_changes_is_named_once_with_its_kind():
    version = START.edited(
        {("Fax",): (), ("Home", "Lamp"): (("Home", "Light"),), ("Toys",): (("Fun", "Games"), ("Fun", "Dolls"))}
    )
    assert changes(TREE, version) == (
        Change("removed", ("Fax",), ()),
        Change("renamed", ("Home", "Lamp"), (("Home", "Light"),)),
        Change("split", ("Toys",), (("Fun", "Dolls"), ("Fun", "Games"))),
    )


def test_a_renamed_parent_renames_the_categories_below_it():
    found = changes(TREE, START.edited({("Home",): (("House",),)}))
    assert [(change.kind, change.new) for change in found] == [
        ("renamed", (("House", "Lamp"),)),
        ("renamed", (("House", "Sofa"),)),
    ]


def test_merged_into_a_new_category_and_into_one_that_stays():
    both = {("Home", "Lamp"): (("Home",),), ("Home", "Sofa"): (("Home",),)}
    assert [change.kind for change in changes(TREE, START.edited(both))] == ["merged", "merged"]
    assert changes(TREE, START.edited({("Fax",): (("Toys",),)})) == (Change("merged", ("Fax",), (("Toys",),)),)


def test_merged_into_a_part_of_a_split_is_merged():
    version = START.edited({("Toys",): (("Games",), ("Dolls",)), ("Fax",): (("Games",),)})
    assert [change.kind for change in changes(TREE, version)] == ["merged", "split"]


def test_nothing_changes_before_an_edit():
    assert changes(TREE, START) == ()
