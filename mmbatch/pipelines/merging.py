"""Merges one bucket's staged rows into the catalog, its images and its quarantine; the driver commits the files."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import STAGED, WEB_ADDRESS, Catalog, merge
from mmbatch.downloads import Downloads
from mmbatch.pipelines.staging import read_staged
from mmbatch.quarantine import DUPLICATE, Scope, entries_for, keys_of, quarantine_table, write_changes
from mmbatch.tables import FileEntry, Table

OUTCOMES = ("new", "edited", "unchanged", "deleted", "deleted_unknown")
"""What a row that counts can do to the catalog: fields of `catalog.Merged`."""


def tables_of(catalog: Catalog) -> dict[str, Table]:
    """The tables that a merge changes, in the order in which they are committed."""
    return {"images": catalog.images, "quarantine": quarantine_table(catalog.workspace), "catalog": catalog.table}


def merge_bucket(
    row: dict[str, Any], *, catalog: Catalog, scope: Scope, staging: str, run_id: str
) -> list[dict[str, Any]]:
    """Merge the staged rows of one bucket.

    Returns:
        One dict: `counts` by outcome; `fields`, field -> edited products in which it differs; `new_ids` and
        `removed_ids`, the first id of each kind, if there is one; `reasons`, dicts of `reason`, `modality` and how many
        `entries`; and `files`, of each its `table`, the `change` (`added` or `removed`) and the fields of its
        `FileEntry`.
    """
    bucket = row["bucket"]
    rejects = read_staged(f"{staging}/rejects", schema.QUARANTINE, bucket)
    staged = read_staged(f"{staging}/rows", STAGED, bucket)
    before = catalog.table.files([bucket])
    current = catalog.table.read_files(before)
    staged, taken = _without_taken(staged, current, scope)
    merged = merge(current, staged, refused=_refused(rejects) if scope.snapshot else None, last=scope.feed)
    standing = _not_superseded(rejects, staged, merged.duplicates) if scope.feed else rejects
    taken = taken.append_column("differing", pa.repeat("", len(taken)))
    duplicates = taken if scope.feed else pa.concat_tables([merged.duplicates, taken])
    found = _with_duplicates(standing, duplicates, catalog, run_id)
    added, removed = write_changes(
        quarantine_table(catalog.workspace),
        found,
        bucket=bucket,
        scope=scope,
        accepted=pc.unique(staged["product_id"]),
        removed=merged.removed,
    )
    changed = bool(merged.new or merged.edited or len(merged.removed))
    stored = [catalog.table.write_file(merged.rows, bucket=bucket)] if changed and merged.rows.num_rows else []
    dropped = _whole(rejects).num_rows - _whole(standing).num_rows
    counts = {name: int(getattr(merged, name)) for name in OUTCOMES} | {
        "superseded": merged.duplicates.num_rows + dropped if scope.feed else 0,
        "rejected": duplicates.num_rows - dropped,
        "removed": len(merged.removed),
        "flawed": len(pc.unique(keys_of(found))),
    }
    files = [
        *_changes("images", _new_images(catalog, staged, bucket), []),
        *_changes("quarantine", added, removed),
        *_changes("catalog", stored, before if changed else []),
    ]
    return [
        {
            "counts": counts,
            "fields": merged.edited_fields,
            "new_ids": merged.added[:1].to_pylist(),
            "removed_ids": merged.removed[:1].to_pylist(),
            "reasons": _by_reason(found),
            "files": files,
        }
    ]


def _changes(table: str, added: list[FileEntry], removed: list[FileEntry]) -> list[dict[str, Any]]:
    changes = [("added", file) for file in added] + [("removed", file) for file in removed]
    return [{"table": table, "change": change, **asdict(file)} for change, file in changes]


def _by_reason(found: pa.Table) -> list[dict[str, Any]]:
    counted = found.group_by(["reason", "modality"]).aggregate([([], "count_all")])
    rows: list[dict[str, Any]] = counted.rename_columns(["reason", "modality", "entries"]).to_pylist()
    return rows


def _refused(rejects: pa.Table) -> pa.Array:
    """Ids of the rows that were rejected whole."""
    return _whole(rejects)["product_id"].drop_null().combine_chunks()


def _whole(rejects: pa.Table) -> pa.Table:
    return rejects.filter(pc.is_null(rejects["modality"]))


def _not_superseded(rejects: pa.Table, staged: pa.Table, duplicates: pa.Table) -> pa.Table:
    """What of a feed's rows was found bad, without the rows after which another of their product comes.

    A row whose product has only a bad row after it stands, as if the feed had come in two.
    """
    rejects = rejects.filter(pc.invert(pc.is_in(keys_of(rejects), value_set=keys_of(duplicates).combine_chunks())))
    whole = _whole(rejects)
    order = ["product_id", "source", "position"]
    rows = pa.concat_tables([staged.select(order), whole.select(order)]).filter(pc.field("product_id").is_valid())
    rows = rows.sort_by([(name, "ascending") for name in order])
    ids = rows["product_id"].to_numpy(zero_copy_only=False)
    earlier = np.zeros(len(ids), bool)
    earlier[:-1] = ids[1:] == ids[:-1]
    keys = keys_of(rows.filter(pa.array(earlier))).combine_chunks()
    superseded = pc.and_(pc.is_null(rejects["modality"]), pc.is_in(keys_of(rejects), value_set=keys))
    return rejects.filter(pc.invert(superseded))


def _without_taken(staged: pa.Table, current: pa.Table, scope: Scope) -> tuple[pa.Table, pa.Table]:
    """Staged rows, and those among rows read again whose id another row of the source has.

    That row is not read this time. It is known by an entry that says so, or by a product of this id which the catalog
    has from the same file, although the row that is read again did not bear the id when it was rejected.
    """
    if scope.rows is None:
        return staged, staged.slice(0, 0)
    bearing = keys_of(staged, "product_id")
    was = keys_of(scope.rows, "product_id")
    duplicate = pc.is_in(bearing, value_set=was.filter(pc.equal(scope.rows["reason"], DUPLICATE)).combine_chunks())
    bore = pc.is_in(bearing, value_set=was.combine_chunks())
    held = pc.is_in(_in_file(staged), value_set=_in_file(current).combine_chunks())
    taken = pc.or_(duplicate, pc.and_not(held, bore))
    return staged.filter(pc.invert(taken)), staged.filter(taken)


def _in_file(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows["source"], rows["product_id"], "\x1f")


def _with_duplicates(rejects: pa.Table, duplicates: pa.Table, catalog: Catalog, run_id: str) -> pa.Table:
    """The bucket's entries: a duplicate is rejected whole, whatever else is wrong with it."""
    elsewhere = pc.invert(pc.is_in(keys_of(rejects), value_set=keys_of(duplicates).combine_chunks()))
    parts = [rejects.filter(elsewhere)]
    for source in pc.unique(duplicates["source"]).to_pylist():
        rows = duplicates.filter(pc.equal(duplicates["source"], source))
        differing = pc.binary_join_element_wise(", with another ", rows["differing"], "")
        message = pc.binary_join_element_wise(
            "product id ",
            rows["product_id"],
            " came earlier in the source",
            pc.if_else(pc.equal(rows["differing"], ""), "", differing),
            "",
        )
        of_source = pa.table(
            {
                "position": rows["position"],
                "product_id": rows["product_id"],
                "modality": pa.nulls(len(rows), pa.string()),
                "reason": pa.repeat(DUPLICATE, len(rows)),
                "message": message,
            }
        )
        buckets = catalog.workspace.settings.buckets
        parts.append(entries_for(of_source, stage="ingest", source=source, run_id=run_id, buckets=buckets))
    return pa.concat_tables(parts)


def _new_images(catalog: Catalog, staged: pa.Table, bucket: int) -> list[FileEntry]:
    """Write the bucket's image files that are not stored yet, each content once."""
    held = catalog.images.read(["image_hash"], buckets=[bucket])["image_hash"].combine_chunks()
    staged = staged.filter(pc.invert(pc.is_in(staged["image_hash"], value_set=held)))
    inside = staged.filter(pc.is_valid(staged["image"])).select(schema.IMAGES.names)
    web = pc.and_(pc.is_null(staged["image"]), pc.match_substring_regex(staged["image_uri"], WEB_ADDRESS))
    downloaded = Downloads.of(catalog.workspace).images(bucket, pc.unique(staged.filter(web)["image_hash"]))
    rows = pa.concat_tables([inside, downloaded])
    if not rows.num_rows:
        return []
    first = np.unique(rows["image_hash"].to_numpy(zero_copy_only=False), return_index=True)[1]
    return [catalog.images.write_file(rows.take(pa.array(first)), bucket=bucket)]
