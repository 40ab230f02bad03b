"""Where the products of a night go, from the rows of the source to what is published, as lines that add up."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Tone = Literal["same", "work", "reused", "lost"]
"""What becomes of products: nothing new, computed tonight, taken from what is stored, left out."""

OUTCOMES: Mapping[str, Tone] = {
    "unchanged": "same",
    "superseded": "same",
    "edited": "work",
    "new": "work",
    "computed": "work",
    "predicted": "work",
    "reused": "reused",
    "deleted": "lost",
    "rejected": "lost",
    "quarantined": "lost",
    "unpredictable": "lost",
}
"""Outcome of a row, of a product with an encoder, or of a product with the predictor -> its tone."""


class Part(NamedTuple):
    """One outcome of some products."""

    name: str
    products: int
    """Or rows, of a source."""
    tone: Tone
    sign: Literal["+", "−"] = "+"


class Line(NamedTuple):
    """A number of products and what it is made of."""

    name: str
    total: int
    parts: tuple[Part, ...]

    @property
    def missing(self) -> int:
        """By how much the parts fall short of the total; not 0: the counts do not tie out."""
        return self.total - sum(part.products if part.sign == "+" else -part.products for part in self.parts)

    @property
    def shares(self) -> list[tuple[Part, float]]:
        """The parts that are added, with their shares of the total, 0..1."""
        return [(part, part.products / max(1, self.total)) for part in self.parts if part.sign == "+" and part.products]


class Step(NamedTuple):
    """One stage of the night."""

    title: str
    lines: tuple[Line, ...]
    note: str = ""


def flow(
    *,
    rows: Mapping[str, int],
    edited: Mapping[str, int],
    products: Mapping[str, int],
    encoded: Mapping[str, Mapping[str, int]],
    reasons: Mapping[str, int],
    published: int,
    committed: bool,
) -> list[Step]:
    """The steps of a night (fields of `Night` of the same names), without those of which nothing is known.

    `published` counts the published predictions; `committed`: the night's changes are among them.
    """
    steps = [
        Step("Source", _split("rows", "rows", rows), _fields(edited)),
        Step("Catalog", _catalog(rows, products)),
        Step("Encoded", tuple(line for name, counts in encoded.items() for line in _split(name, "products", counts))),
        Step("Predicted", _split("products", "products", products)),
        Step("Published", (_published(reasons, published, committed),), "" if committed else "Nothing was published."),
    ]
    return [step for step in steps if step.lines]


def _split(name: str, total: str, counts: Mapping[str, int]) -> tuple[Line, ...]:
    """One line of a total and its outcomes, none where there is no total; outcomes that are 0 are left out."""
    if total not in counts:
        return ()
    parts = (Part(outcome, counts[outcome], tone) for outcome, tone in OUTCOMES.items() if counts.get(outcome))
    return (Line(name, counts[total], tuple(parts)),)


def _catalog(rows: Mapping[str, int], products: Mapping[str, int]) -> tuple[Line, ...]:
    if "products" not in products:
        return ()
    new, removed = rows.get("new", 0), rows.get("removed", 0)
    before = max(0, products["products"] - new + removed)
    parts = (Part("there before", before, "same"), Part("new", new, "work"), Part("removed", removed, "lost", "−"))
    return (Line("products", products["products"], tuple(part for part in parts if part.products)),)


def _published(reasons: Mapping[str, int], published: int, committed: bool) -> Line:
    new = reasons.get("new", 0) if committed else 0
    changed = sum(count for reason, count in reasons.items() if reason not in ("new", "removed")) if committed else 0
    parts = (
        Part("as before", max(0, published - new - changed), "same"),
        Part("changed", changed, "work"),
        Part("new", new, "work"),
    )
    return Line("predictions", published, tuple(part for part in parts if part.products))


def _fields(edited: Mapping[str, int]) -> str:
    named = ", ".join(f"{count:,} {field}" for field, count in edited.items() if count)
    return f"Edited, some in several fields: {named}." if named else ""
