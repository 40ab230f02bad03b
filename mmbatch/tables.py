"""Delta tables: open, read by bucket, commit. The only module that imports `deltalake`.

Workers write Parquet files (`Table.write_file`) and hand their entries to the driver, which commits them
(`Table.commit`); a file that is not committed does not exist for any reader. A commit carries the writer's
`Transaction(app_id, version)`, so that one whose acknowledgement was lost is not applied a second time, and its epoch,
so that a run that has lost its turn commits nothing. Whoever reads more than once reads a `Snapshot`.
"""

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction
from pyarrow.fs import LocalFileSystem

from mmbatch.epochs import Epoch
from mmbatch.errors import InputError, LostRaceError
from mmbatch.failpoints import reach
from mmbatch.storage import again, delta_options, filesystem_of, is_local, make_folder

Result = TypeVar("Result")

EPOCH = "mmbatch-epoch"
"""Application id under which a table's log holds the epoch of its last writer."""

INCOMPRESSIBLE = ("image", "states", "vector")
"""Columns written without dictionary, statistics or compression: float16 noise and JPEG do not shrink."""


LOG_DAYS = 30
"""Days for which the log tells which files a version had: Delta's own default for its entries, and for the removed
files in its checkpoints the same, so that no file of a version which can still be opened is taken for a stray one."""

ROW_GROUP_BYTES = 4 << 20
"""Of a file with vectors, sequences or images: 40 JPEG files, or 2,000 vectors of 1,024 float16."""


@dataclass(frozen=True)
class FileEntry:
    """One Parquet file of a table: what a commit adds or removes."""

    path: str
    """Relative to the table's root."""
    rows: int
    size: int
    """Bytes."""
    bucket: int


@dataclass(frozen=True)
class Table:
    """A Delta table partitioned by `bucket`; it need not exist yet, an absent table reads as empty."""

    uri: str
    schema: pa.Schema
    epoch: Epoch | None = None
    """The run's turn, which every commit checks; None: a reader, or a table that no other run knows."""

    def version(self) -> int:
        """Latest committed version, -1 when the table does not exist."""
        table = self._open()
        return -1 if table is None else table.version()

    def columns(self) -> tuple[str, ...] | None:
        """Names and types as they are stored, sorted; None: the table does not exist."""
        table = self._open()
        return None if table is None else described(pa.schema(table.schema().to_arrow()))

    def written_columns(self, entry: FileEntry) -> tuple[str, ...]:
        """Names and types of the columns of a file that is written, sorted, as `columns` gives them."""
        filesystem, root = filesystem_of(self.uri)
        found = pq.read_schema(f"{root}/{entry.path}", filesystem=filesystem)
        return described(found.append(pa.field("bucket", pa.int32())))

    def snapshot(self, version: int | None = None) -> "Snapshot":
        """The table as it is at a version, the latest by default, whatever is committed after."""
        table = self._open(version)
        if table is None:
            return Snapshot(self, -1, ())
        actions = pa.table(table.get_add_actions(flatten=True))
        columns = (actions[name].to_pylist() for name in ("path", "num_records", "size_bytes", "partition.bucket"))
        entries = [FileEntry(path, rows, size, int(bucket)) for path, rows, size, bucket in zip(*columns, strict=True)]
        return Snapshot(self, table.version(), tuple(sorted(entries, key=lambda entry: (entry.bucket, entry.path))))

    def files(self, buckets: Collection[int] | None = None) -> list[FileEntry]:
        """Committed files of some buckets (all by default), in a stable order."""
        return self.snapshot().of(buckets)

    def rows(self) -> int:
        """Number of rows, from the log alone."""
        return sum(entry.rows for entry in self.files())

    def read(
        self,
        columns: Sequence[str] | None = None,
        *,
        buckets: Collection[int] | None = None,
        filters: ds.Expression | None = None,
    ) -> pa.Table:
        """Rows of some buckets as one Arrow table; `filters` is pushed down to the Parquet row groups."""
        return self.read_files(self.files(buckets), columns, filters=filters)

    def read_files(
        self,
        entries: Sequence[FileEntry],
        columns: Sequence[str] | None = None,
        *,
        filters: ds.Expression | None = None,
    ) -> pa.Table:
        """Rows of the named files, in the files' order."""
        names = list(columns or self.schema.names)
        if not entries:
            return pa.schema([self.schema.field(name) for name in names]).empty_table()
        filesystem, root = filesystem_of(self.uri)
        dataset = ds.dataset(
            [f"{root}/{entry.path}" for entry in entries],
            schema=self.schema,
            format="parquet",
            filesystem=LocalFileSystem() if is_local(self.uri) else filesystem,  # Arrow's own needs no Python to read
            partitioning=ds.partitioning(pa.schema([("bucket", pa.int32())]), flavor="hive"),
            partition_base_dir=root,
        )
        return dataset.to_table(columns=names, filter=filters)

    def write_file(self, rows: pa.Table, *, bucket: int) -> FileEntry:
        """Write rows of one bucket as a new Parquet file that nobody can see until it is committed."""
        stored = rows.select([name for name in self.schema.names if name != "bucket"]).cast(
            pa.schema([field for field in self.schema if field.name != "bucket"])
        )
        plain = [name for name in stored.schema.names if name not in INCOMPRESSIBLE]
        wide = len(plain) < stored.num_columns
        filesystem, root = filesystem_of(self.uri)
        path = f"bucket={bucket}/{uuid.uuid4().hex}.parquet"
        reach("file.before")
        make_folder(f"{self.uri}/bucket={bucket}")
        pq.write_table(
            stored,
            f"{root}/{path}",
            filesystem=filesystem,
            compression={name: "ZSTD" if name in plain else "NONE" for name in stored.schema.names} if wide else "ZSTD",
            use_dictionary=plain if wide else True,
            write_statistics=plain if wide else True,
            row_group_size=_row_group_rows(stored) if wide else 50_000,
        )
        reach("file.after")
        return FileEntry(path=path, rows=rows.num_rows, size=int(filesystem.size(f"{root}/{path}")), bucket=bucket)

    def write_buckets(self, rows: pa.Table) -> list[FileEntry]:
        """Write rows of any buckets (column `bucket`), one file a bucket."""
        buckets = rows["bucket"].to_numpy()
        order = np.argsort(buckets, kind="stable")
        rows = rows.take(pa.array(order))
        values, starts = np.unique(buckets[order], return_index=True)
        ends = [*starts[1:], len(order)]
        return [
            self.write_file(rows.slice(start, end - start), bucket=int(bucket))
            for bucket, start, end in zip(values, starts, ends, strict=True)
        ]

    def commit(self, added: Iterable[FileEntry], *, app_id: str, version: int = 0) -> int:
        """Append files in one atomic commit and return the table's new version.

        A commit of the same `app_id` whose `version` is not newer has landed before and is not repeated.
        """
        actions: list[AddAction | RemoveAction] = [*map(_add_action, added)]
        return self._commit(actions, app_id=app_id, version=version, retries=None)

    def replace(
        self,
        added: Iterable[FileEntry],
        removed: Iterable[FileEntry],
        *,
        app_id: str,
        read_version: int,
        same_rows: bool = False,
    ) -> int:
        """Swap files in one atomic commit and return the table's new version.

        `same_rows` tells whoever follows the table's changes that the files were only rearranged. `LostRaceError`
        when the table is no longer at `read_version`, which `removed` and `added` were derived from.
        """
        actions: list[AddAction | RemoveAction] = [
            *(_add_action(entry, data_change=not same_rows) for entry in added),
            *(_remove_action(entry, data_change=not same_rows) for entry in removed),
        ]
        return self._commit(actions, app_id=app_id, version=0, retries=0, read_version=read_version)

    def landed(self, app_id: str, version: int = 0) -> bool:
        """Whether the commit with this id and number has been made."""
        table = self._open()
        return table is not None and _landed(table, app_id, version)

    def fence(self, epoch: Epoch) -> None:
        """Write an epoch into the table's log: from now on every commit of an earlier one fails."""
        properties = CommitProperties(app_transactions=[Transaction(EPOCH, epoch.number)])
        while True:
            epoch.check()
            table = _answered(lambda: DeltaTable(self.uri, storage_options=delta_options(self.uri)))
            write = partial(table.create_write_transaction, [], "append", table.schema(), commit_properties=properties)
            try:
                _answered(write)
            except CommitFailedError:  # the answer was lost, or the other run has committed just now: once more
                continue
            return

    def unreferenced(self, keep: timedelta) -> dict[str, int]:
        """Path and bytes of every file that no version of the last `keep` has, and that is older than that.

        Files that were never committed count by when they were written. `keep` is rounded up to whole hours, and must
        not be longer than `LOG_DAYS`.
        """
        table = self._open()
        if table is None:
            return {}
        hours = -(-keep // timedelta(hours=1))
        paths = table.vacuum(retention_hours=hours, dry_run=True, enforce_retention_duration=False, full=True)
        filesystem, root = filesystem_of(self.uri)
        there = filesystem.find(root, detail=True) if paths else {}
        found = {path: there.get(f"{root}/{path}") for path in paths}  # the log also names files that went before
        return {path: int(info["size"]) for path, info in found.items() if info}

    def delete(self, paths: Collection[str]) -> None:
        """Delete files that no version of the table needs (`unreferenced`); the log does not change."""
        if self.epoch:
            self.epoch.check()
        filesystem, root = filesystem_of(self.uri)
        reach("vacuum.before")
        filesystem.rm([f"{root}/{path}" for path in paths])
        reach("vacuum.after")

    def loose_commits(self) -> int:
        """Commits since the log's last checkpoint: what a reader fetches one by one to open the table."""
        filesystem, root = filesystem_of(f"{self.uri}/_delta_log")
        checkpoint = f"{root}/_last_checkpoint"
        last = json.loads(filesystem.cat_file(checkpoint))["version"] if filesystem.exists(checkpoint) else -1
        return self.version() - int(last)

    def checkpoint(self) -> None:
        """Join the log's entries into one file, after deleting expired ones that an earlier checkpoint holds.

        In this order, a version before a checkpoint can be opened at least until the next checkpoint.
        """
        table = _answered(lambda: DeltaTable(self.uri, storage_options=delta_options(self.uri)))
        _answered(table.cleanup_metadata)
        _answered(table.create_checkpoint)

    def _commit(
        self,
        actions: list[AddAction | RemoveAction],
        *,
        app_id: str,
        version: int,
        retries: int | None,
        read_version: int | None = None,
    ) -> int:
        table = self._open() or self._create()
        if actions and read_version is not None and table.version() != max(read_version, 0):  # 0: made, still empty
            raise LostRaceError(
                f"{self.uri}: another run has written version {table.version()}, this one read {read_version}"
            )
        if _landed(table, app_id, version) or not actions:
            return int(table.version())
        transactions = [Transaction(app_id, version), *self._epoch_transaction(table)]
        properties = CommitProperties(app_transactions=transactions, max_commit_retries=retries)
        reach("commit.before")
        try:
            _answered(
                lambda: table.create_write_transaction(
                    actions, "append", self._delta_schema(), partition_by=["bucket"], commit_properties=properties
                )
            )
        except CommitFailedError as error:
            if not _landed(self._open(), app_id, version):  # else it was carried out, and the answer was lost
                raise LostRaceError(f"{self.uri}: another run has changed this table: {error}") from error
        reach("commit.after")
        _answered(table.update_incremental)
        return int(table.version())

    def _epoch_transaction(self, table: DeltaTable) -> list[Transaction]:
        """This run's epoch for a commit; `LostRaceError` when a later one has begun."""
        if self.epoch is None:
            return []
        self.epoch.check()
        if (table.transaction_version(EPOCH) or 0) > self.epoch.number:
            raise LostRaceError(f"{self.uri}: epoch {self.epoch.number} is over, another run has written here since")
        return [Transaction(EPOCH, self.epoch.number)]

    def _open(self, version: int | None = None) -> DeltaTable | None:
        try:
            table = _answered(lambda: DeltaTable(self.uri, version=version, storage_options=delta_options(self.uri)))
        except TableNotFoundError:
            return None
        found = pa.schema(table.schema().to_arrow()).names
        if sorted(found) != sorted(self.schema.names):
            raise InputError(f"{self.uri}: columns are {sorted(found)}, expected {sorted(self.schema.names)}")
        return table

    def _create(self) -> DeltaTable:
        """Make the table, or open the one that another writer has made meanwhile.

        Without retries: deltalake would write its schema once more as version 1, and fail every commit begun before.
        """
        create = partial(
            DeltaTable.create,
            self.uri,
            self._delta_schema(),
            mode="ignore",
            partition_by=["bucket"],
            configuration={"delta.deletedFileRetentionDuration": f"interval {LOG_DAYS} days"},
            storage_options=delta_options(self.uri),
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        try:
            return _answered(create)
        except CommitFailedError:
            return _answered(lambda: DeltaTable(self.uri, storage_options=delta_options(self.uri)))

    def _delta_schema(self) -> pa.Schema:
        """Delta has no fixed-size binary; the width stays in the Parquet files."""
        return pa.schema(
            [
                field.with_type(pa.binary()) if pa.types.is_fixed_size_binary(field.type) else field
                for field in self.schema
            ]
        )


@dataclass(frozen=True)
class Snapshot:
    """One committed version of a table: reading it again gives the same rows."""

    table: Table
    version: int
    """-1: the table does not exist."""
    entries: tuple[FileEntry, ...]
    """By bucket and path."""

    @cached_property
    def _by_bucket(self) -> dict[int, list[FileEntry]]:
        found: dict[int, list[FileEntry]] = {}
        for entry in self.entries:
            found.setdefault(entry.bucket, []).append(entry)
        return found

    def of(self, buckets: Collection[int] | None = None) -> list[FileEntry]:
        """The files of some buckets, all by default."""
        if buckets is None:
            return list(self.entries)
        return [entry for bucket in sorted(buckets) for entry in self._by_bucket.get(bucket, [])]

    def read(
        self,
        columns: Sequence[str] | None = None,
        *,
        buckets: Collection[int] | None = None,
        filters: ds.Expression | None = None,
    ) -> pa.Table:
        """Rows of some buckets as one Arrow table."""
        return self.table.read_files(self.of(buckets), columns, filters=filters)


def described(columns: pa.Schema) -> tuple[str, ...]:
    """Names and types of columns, sorted; how a map calls its entries is no difference."""
    return tuple(sorted(f"{field.name}: {_anonymous(field.type)}" for field in columns))


def _anonymous(kind: pa.DataType) -> pa.DataType:
    return pa.map_(kind.key_type, kind.item_type) if pa.types.is_map(kind) else kind


def _answered(action: Callable[[], Result]) -> Result:
    """The result of a call to deltalake, repeated while its store gives no usable answer; see `storage.again`."""

    def told() -> Result:
        try:
            return action()
        except DeltaError as error:
            if "object store" in str(error):  # deltalake has two ways to say that its store failed
                raise OSError(str(error)) from error
            raise

    return again(told)


def _landed(table: DeltaTable | None, app_id: str, version: int) -> bool:
    """Whether the log holds this transaction, or a newer one of the same application."""
    found = None if table is None else table.transaction_version(app_id)
    return found is not None and found >= version


def _row_group_rows(rows: pa.Table) -> int:
    """Rows of about `ROW_GROUP_BYTES`: what a filter on a sorted column can leave unread."""
    return max(1, min(50_000, int(ROW_GROUP_BYTES * rows.num_rows // max(rows.nbytes, 1))))


def _add_action(entry: FileEntry, *, data_change: bool = True) -> AddAction:
    return AddAction(
        path=entry.path,
        size=entry.size,
        partition_values={"bucket": str(entry.bucket)},
        modification_time=int(time.time() * 1000),
        data_change=data_change,
        stats=json.dumps({"numRecords": entry.rows}),
    )


def _remove_action(entry: FileEntry, *, data_change: bool = True) -> RemoveAction:
    return RemoveAction(path=entry.path, deletion_timestamp=int(time.time() * 1000), data_change=data_change)
