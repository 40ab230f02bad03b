"""Published predictions of the Rakuten challenge's products without a label, in the form that it takes them."""

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.errors import InputError
from mmbatch.predictions import Predictions
from mmbatch.schema import PATH_SEPARATOR
from mmbatch.source_files import reading
from mmbatch.source_rakuten import codes_of, column_named, filled, read_table
from mmbatch.source_rakuten_files import Challenge, find_challenge
from mmbatch.storage import replace_file
from mmbatch.workspace import Workspace, normalise_uri

_SHOWN = 3  # products that a message names


def challenge_to_predict(source: str) -> tuple[Challenge, str]:
    """The challenge of a source, and the URI of the one file of products to predict that it means.

    The source is the challenge's folder or, where that has several such files, one of them; `InputError` for another.
    """
    uri = normalise_uri(source)
    challenge = find_challenge(uri) or find_challenge(uri.rpartition("/")[0])
    if challenge is None:
        raise InputError(f"--source {source}: found no file of the Rakuten challenge; expected its folder")
    if uri in challenge.tests:
        return challenge, uri
    if uri != challenge.folder or len(challenge.tests) != 1:
        found = ", ".join(challenge.tests) or "none"
        raise InputError(f"--source {source}: found files of products to predict: {found}; expected to be told of one")
    return challenge, challenge.tests[0]


def submission(workspace: Workspace, challenge: Challenge, file: str) -> pa.Table:
    """Every row of a file of products to predict, in its order, with the published code of its product.

    Text, `[N]`: of the TSV issue the columns of the file and `Prdtypecode`, of the re-issue those of Y. Raises
    `InputError` for products without a published code, and for a code that Y has not.
    """
    issue = challenge.issue
    table = read_table(file, (issue.row, issue.product))
    with reading(file):
        table.validate(full=True)  # UTF-8
    codes = _published(workspace, file, filled(file, table, issue.product))
    unknown = codes.filter(pc.invert(pc.is_in(codes, value_set=codes_of(challenge)[1])))
    if len(unknown):
        raise InputError(
            f"--workspace {workspace.uri}: {len(unknown):,} products are published as no code of {issue.labels}, such"
            f" as {unknown[0].as_py()!r}; expected a workspace of this challenge that learned its codes"
        )
    kept = table if issue.keeps_columns else pa.table({issue.row: column_named(table, issue.row)})
    return kept.append_column(issue.code, codes)


def write_submission(table: pa.Table, out: str, *, separator: str) -> None:
    """Write a `submission` as CSV over the file or object that is there; `InputError` when that cannot be done.

    It appears whole or not at all.
    """
    content = table.to_pandas().to_csv(sep=separator, index=False, lineterminator="\n")
    try:
        replace_file(out, content.encode())
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _published(workspace: Workspace, file: str, products: pa.Array) -> pa.Array:
    """Code of each product, string `[N]`: the last name of its published category."""
    wanted = pc.field("product_id").isin(products)
    found = Predictions(workspace=workspace).table.read(["product_id", "category"], filters=wanted)
    codes = pc.replace_substring_regex(found["category"], f"(?s)^.*{PATH_SEPARATOR}", "").combine_chunks()
    codes = codes.take(pc.index_in(products, value_set=found["product_id"].combine_chunks()))
    missing = products.filter(codes.is_null())
    if len(missing):
        listed = ", ".join([*missing[:_SHOWN].to_pylist(), *(["..."] if len(missing) > _SHOWN else [])])
        raise InputError(
            f"{file}: {len(missing):,} of {len(products):,} products have no published category in {workspace.uri}"
            f" ({listed}); expected one of each: see jobs.quarantine and jobs.predict"
        )
    return codes
