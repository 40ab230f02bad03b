"""Products as the inputs of several encoders at once: their texts and images read, decoded and tokenised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.encoders import Encoder, Inputs
from mmbatch.schema import Modality


class Failure(NamedTuple):
    """A content of a product that none of the encoders of its modality could take."""

    modality: Modality
    reason: str
    message: str


@dataclass(frozen=True, eq=False)
class ProductInputs:
    """N products, ready for the networks."""

    inputs: Mapping[str, Inputs]
    """Encoder -> `Prepared.inputs` of the products that have it, in their order."""
    present: Mapping[str, np.ndarray]
    """Encoder -> whether a product has it, bool `[N]`."""
    failures: Mapping[int, tuple[Failure, ...]]
    """Product, 0 to N - 1 -> what of it failed."""


@dataclass(frozen=True, eq=False)
class ProductContents:
    """The texts and images of N products."""

    products: int
    rows: Mapping[Modality, tuple[pa.Table, np.ndarray]]
    """Modality -> `Catalog.content` of the products that have it, and which they are, int64, ascending."""

    @classmethod
    def read(cls, catalog: Catalog, bucket: int, hashes: pa.Table) -> Self:
        """Read the contents behind `text_hash` and `image_hash` of products of one bucket; null: there is none."""
        rows = {}
        for modality, column in HASH_COLUMNS.items():
            has = np.flatnonzero(np.asarray(pc.is_valid(hashes[column])))
            if len(has):
                wanted = hashes[column].drop_null().combine_chunks()
                rows[modality] = catalog.content(modality, bucket, wanted), has
        return cls(hashes.num_rows, rows)

    def filter(self, kept: np.ndarray) -> Self:
        """Some of the products, bool `[N]`."""
        place = np.cumsum(kept) - 1
        rows = {
            modality: (table.filter(pa.array(kept[has])), place[has[kept[has]]])
            for modality, (table, has) in self.rows.items()
        }
        return type(self)(int(kept.sum()), rows)

    def prepare(self, encoders: Mapping[str, Encoder]) -> ProductInputs:
        """Decode or tokenise them for every encoder."""
        inputs: dict[str, Inputs] = {name: {} for name in encoders}
        present = {name: np.zeros(self.products, bool) for name in encoders}
        failures: dict[int, tuple[Failure, ...]] = {}
        for modality, (table, has) in self.rows.items():
            own = {name: encoder for name, encoder in encoders.items() if encoder.modality == modality}
            why: dict[int, tuple[str, str]] = {}
            for name, encoder in own.items():
                prepared = encoder.prepare(table)
                inputs[name], present[name][has[prepared.good]] = prepared.inputs, True
                why |= {row: (reason, message) for row, reason, message in prepared.failures}
            for row in np.flatnonzero(~np.any([present[name][has] for name in own], axis=0)) if own else ():
                product = int(has[row])
                failures[product] = (*failures.get(product, ()), Failure(modality, *_why(table, int(row), why)))
        return ProductInputs(inputs, present, failures)


def _why(table: pa.Table, row: int, why: Mapping[int, tuple[str, str]]) -> tuple[str, str]:
    """Reason code and message; where a content could not be read, the catalog says better why."""
    if "reason" in table.column_names and table["reason"][row].is_valid:
        return table["reason"][row].as_py(), table["message"][row].as_py()
    return why[row]
