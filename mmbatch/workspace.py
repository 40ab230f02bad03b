"""One root URI (a folder or `s3://bucket/prefix`) and where each table and model lies under it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Self

import pyarrow as pa

from mmbatch.epochs import EXPIRY_S, Epoch, taken
from mmbatch.errors import InputError, LostRaceError
from mmbatch.schema import CORRECTIONS
from mmbatch.storage import create_file, filesystem_of, is_local, make_folder, probe_conditional_put
from mmbatch.tables import Table

FORMAT = 3
"""Layout version written into every workspace; another one is refused."""

PRODUCTS_PER_BUCKET = 20_000
"""A bucket is what one worker joins in memory: 20,000 products x (2,048 float16 + text) is about 100 MB."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is fixed when a workspace is made, because every table depends on it."""

    preset: str
    """Named configuration whose encoders and columns the workspace uses."""
    level: int
    """Depth of the category path that is learned and predicted: 1 is the root's children."""
    seed: int
    """Seed of the splits and of all training."""
    buckets: int
    """Slices of every table, by hash of the product id."""
    top_classes: int = 0
    """Most frequent classes that are learned (`mmbatch.learned_classes`); 0: all."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A root URI with its settings; holds no open file and pickles cheaply."""

    uri: str
    settings: Settings
    epoch: Epoch | None = None
    """The turn at writing that `writing` took; every commit to a table of this workspace checks it."""
    corrections_at: int | None = None
    """Version of `corrections` that counts, -1 where there are none; None: the latest. `writing` fixes it, so that all
    of a run has the same labels."""
    challenging: bool = False
    """Models that are stored through it are challengers: trained to be compared with what is published, and not what
    jobs take for the newest (`mmbatch.models.standing_models`)."""

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open an existing workspace; `InputError` when there is none or another version wrote it."""
        uri = normalise_uri(uri)
        try:
            filesystem, path = filesystem_of(f"{uri}/workspace.json")
            found = json.loads(filesystem.cat_file(path))
        except FileNotFoundError:
            raise InputError(f"--workspace {uri}: no workspace.json there; `jobs.ingest` makes a workspace") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"--workspace {uri}: workspace.json is not JSON: {error}") from None
        expected = {"format", *(field.name for field in fields(Settings))}
        optional = {field.name for field in fields(Settings) if field.default is not MISSING}
        if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"--workspace {uri}: of format {found['format']}, this mmbatch reads and writes format {FORMAT}: use"
                " the version that made it, or make a new workspace"
            )
        if not isinstance(found, dict) or not expected - optional <= set(found) <= expected:
            raise InputError(f"--workspace {uri}: workspace.json has not the keys {sorted(expected)}: {found}")
        return cls(uri=uri, settings=Settings(**{key: value for key, value in found.items() if key != "format"}))

    @classmethod
    def create(cls, uri: str, settings: Settings) -> Self:
        """Make a workspace; `LostRaceError` when another run made one there in the meantime."""
        uri = normalise_uri(uri)
        try:
            make_folder(uri)
        except OSError as error:
            raise InputError(f"--workspace {uri}: cannot make this folder: {error}") from None
        probe_conditional_put(uri)
        content = json.dumps({"format": FORMAT, **asdict(settings)}, indent=1)
        try:
            create_file(f"{uri}/workspace.json", content.encode())
        except FileExistsError:
            raise LostRaceError(f"--workspace {uri}: another run has made this workspace just now") from None
        return cls(uri=uri, settings=settings)

    @classmethod
    def exists(cls, uri: str) -> bool:
        """Whether a workspace lies at `uri`."""
        filesystem, root = filesystem_of(normalise_uri(uri))
        return bool(filesystem.exists(f"{root}/workspace.json"))

    def require(self, *, preset: str, level: int, seed: int, top_classes: int) -> None:
        """Raise `InputError` when the workspace was made with other settings than these."""
        wanted = {"preset": preset, "level": level, "seed": seed, "top_classes": top_classes}
        found = {key: getattr(self.settings, key) for key in wanted}
        if found != wanted:
            wrong = [
                f"{key} is {found[key]!r}, asked for {value!r}" for key, value in wanted.items() if found[key] != value
            ]
            raise InputError(
                f"--workspace {self.uri} was made with other settings ({'; '.join(wrong)}): use another --workspace"
            )

    @contextmanager
    def writing(self, job: str, *, wait_s: float = 0.0, expiry_s: float = EXPIRY_S) -> Iterator[Self]:
        """This workspace with its next epoch, held while the block runs; see `mmbatch.epochs.taken`."""
        probe_conditional_put(self.uri)
        with taken(self.path("epochs"), job=job, wait_s=wait_s, expiry_s=expiry_s) as epoch:
            owned = replace(self, epoch=epoch, corrections_at=self.table("corrections", schema=CORRECTIONS).version())
            if epoch.took_over:
                for uri in owned.tables():
                    Table(uri, pa.schema([])).fence(epoch)
            yield owned

    def tables(self) -> list[str]:
        """URIs of all tables that are there, of which `features/`, `sequences/` and `staged/` hold several."""
        filesystem, root = filesystem_of(self.uri)
        logs = [log for depth in ("*", "*/*") for log in filesystem.glob(f"{root}/{depth}/_delta_log")]
        return sorted(self.path(log.removesuffix("/_delta_log")[len(root) + 1 :]) for log in logs)

    def table(self, *parts: str, schema: pa.Schema) -> Table:
        """The table below the root, for this run's epoch."""
        return Table(self.path(*parts), schema, self.epoch)

    def path(self, *parts: str) -> str:
        """URI of something below the root."""
        return "/".join((self.uri, *parts))


def normalise_uri(uri: str) -> str:
    """An absolute URI without trailing slash; a local folder is given as a plain absolute path.

    `InputError` when no file system is known for its scheme.
    """
    path = filesystem_of(uri)[1]
    return path.rstrip("/") if is_local(uri) else uri.rstrip("/")


def buckets_for(products: int) -> int:
    """Power of two that keeps a bucket at or below `PRODUCTS_PER_BUCKET`, at least 4."""
    return max(4, 1 << max(0, -(-products // PRODUCTS_PER_BUCKET) - 1).bit_length())
