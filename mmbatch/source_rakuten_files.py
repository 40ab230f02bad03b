"""The files of the Rakuten challenge, which was issued twice, found by their names in one folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mmbatch.errors import InputError
from mmbatch.storage import filesystem_of
from mmbatch.workspace import normalise_uri

TAXONOMY = "catalog_english_taxonomy.tsv"
"""File that names the top level category of each code; the folder may lack it."""


@dataclass(frozen=True, kw_only=True)
class Issue:
    """How one issue of the challenge names its files, columns and folders."""

    products: str
    """File of the labelled products (X)."""
    labels: str
    """File of their codes (Y)."""
    tests: str
    """Pattern of the files of products to predict."""
    row: str
    """Column that joins X and Y."""
    title: str
    """Column of the title."""
    description: str
    """Column of the description."""
    image: str
    """Column of the image id."""
    product: str
    """Column of the product id."""
    code: str
    """Column of the code, in Y."""
    separator: str
    """What stands between the columns of a submission."""
    keeps_columns: bool
    """A submission has the columns of the file of products to predict, and the code; else it has those of Y."""
    photos: tuple[str, str]
    """Folders of the photos of labelled products, and of those to predict; they may lie below `images`."""

    def files(self, names: Sequence[str]) -> list[str]:
        """Those of these file names that are this issue's own."""
        own = (self.products, self.labels)
        return [name for name in names if name in own or fnmatchcase(name, self.tests)]


SIGIR = Issue(
    products="X_train.tsv",
    labels="Y_train.tsv",
    tests="x_test_task1_phase*.tsv",
    row="Integer_id",
    title="Title",
    description="Description",
    image="Image_id",
    product="Product_id",
    code="Prdtypecode",
    separator="\t",
    keeps_columns=True,
    photos=("image_training", "image_test"),
)
"""The data challenge of SIGIR eCom'20."""

ENS = Issue(
    products="X_train_update.csv",
    labels="Y_train_CVw08PX.csv",
    tests="X_test_update.csv",
    row="",
    title="designation",
    description="description",
    image="imageid",
    product="productid",
    code="prdtypecode",
    separator=",",
    keeps_columns=False,
    photos=("image_train", "image_test"),
)
"""The public re-issue, ENS challenge 35; its row number is a column without a name."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """The challenge's files in one folder."""

    folder: str
    """URI of the folder; a local one is a plain absolute path."""
    issue: Issue
    tests: tuple[str, ...]
    """URIs of the files of products to predict, sorted; there may be none."""
    taxonomy: str | None
    """URI of the file of top level categories; None: the folder lacks it."""

    @property
    def products(self) -> str:
        """URI of the file of labelled products."""
        return f"{self.folder}/{self.issue.products}"

    @property
    def labels(self) -> str:
        """URI of the file of their codes."""
        return f"{self.folder}/{self.issue.labels}"


def find_challenge(source: str) -> Challenge | None:
    """The challenge in a folder; None: no file of it is there, or the source is no folder.

    Raises `InputError` for a folder with files of both issues, and for one that lacks X or Y.
    """
    filesystem, path = filesystem_of(source)
    filesystem.invalidate_cache()
    if not filesystem.isdir(path):
        return None
    folder = normalise_uri(source)
    names = sorted(str(name).rpartition("/")[2] for name in filesystem.ls(path, detail=False))
    issues = [issue for issue in (SIGIR, ENS) if issue.files(names)]
    if not issues:
        return None
    found = [name for issue in issues for name in issue.files(names)]
    if len(issues) > 1:
        raise InputError(f"{folder}: found files of both issues of the challenge, {', '.join(found)}; expected one's")
    issue = issues[0]
    for name in (issue.products, issue.labels):
        if name not in found:
            raise InputError(f"{folder}: no {name}; found {', '.join(found)}, expected {name} beside")
    return Challenge(
        folder=folder,
        issue=issue,
        tests=tuple(f"{folder}/{name}" for name in found if fnmatchcase(name, issue.tests)),
        taxonomy=f"{folder}/{TAXONOMY}" if TAXONOMY in names else None,
    )
