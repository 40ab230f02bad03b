"""A night as any other, for tests to change."""

from datetime import UTC, datetime, timedelta

import numpy as np

from mmbatch.gate import Rule
from mmbatch.golden import Difference
from mmbatch.reports.night import CategoryCount, ChangeExample, Move, Night, NightPoint
from tests.reports.test_evaluation import picture

STARTED = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)


def rule(name: str, measured: float | None, limit: float | None, passed: bool | None, worst: str = "") -> Rule:
    return Rule(
        name=name, measured=measured, limit=limit, passed=passed, worst=worst, sentence=f"What {name} says, at length."
    )


def example(place: int, **changed: object) -> ChangeExample:
    told = {
        "product_id": f"SKU-{place}",
        "title": f"Product {place} in a fine box",
        "image": picture(np.random.default_rng(place)),
        "before": "Home > Pans",
        "after": "도서 > 만화",
        "confidence_before": 0.62,
        "confidence_after": 0.97,
        "reason": "title",
    }
    return ChangeExample(**{**told, **changed})  # type: ignore[arg-type]


def night(**changed: object) -> Night:
    told = {
        "workspace": "s3://lake/mmbatch",
        "run_id": "20260131T020000-1a2b3c",
        "started": STARTED,
        "seconds": 754.2,
        "state": "published",
        "source": "s3://lake/raw/*.parquet",
        "predictor": "fused@0f3c",
        "predictor_before": "fused@0f3c",
        "rows": {"rows": 1000, "new": 30, "edited": 120, "unchanged": 840, "rejected": 10, "removed": 20},
        "edited": {"title": 90, "description": 0, "image": 40, "label": 1},
        "products": {"products": 990, "unchanged": 850, "predicted": 138, "unpredictable": 2, "removed": 20},
        "encoded": {"minilm@a1": {"products": 980, "unchanged": 860, "computed": 100, "reused": 19, "quarantined": 1}},
        "timings": {"ingest": 60.0, "extract": 180.0},
        "bound_by": "decode",
        "contents_per_s": 412.7,
        "reasons": {"title": 70, "image": 34, "taxonomy": 0, "new": 30, "removed": 20},
        "moves": [
            Move(before="Home > Pans", after="도서 > 만화", products=60),
            Move(before="Home > Pans", after=None, products=5),
        ],
        "categories": [
            CategoryCount(category="도서 > 만화", before=100, after=165, entered=67, left=2),
            CategoryCount(category="Home > Pans", before=400, after=330, entered=1, left=71),
        ],
        "quarantined": {"image_missing": (8, 12), "no_content": (None, 3)},
        "drift": {"title length": 0.41, "language": 0.02},
        "golden": Difference(rows=4912, before=0.8412, after=0.8467, low=-0.001, high=0.012),
        "gate": [
            rule("changed", 0.104, 0.1, True),
            rule("drift", 0.21, 0.25, True, "title length"),
            rule("golden", -0.0055, 0.01, True),
            rule("returning", None, 0.5, None),
            rule("schema", None, None, True),
        ],
        "examples": [example(0), example(1, image=None), example(2, image=b"no image at all")],
        "review_products": 45,
        "review_page": None,
        "published_total": 988,
        "changes_total": 154,
    }
    return Night(**{**told, **changed})  # type: ignore[arg-type]


def refused(**changed: object) -> Night:
    gate = [
        rule("golden", -0.0055, 0.01, True),
        rule("changed", 0.2312, 0.1, False),
        rule("drift", 0.41, 0.25, False, "title length"),
    ]
    return night(**{"state": "refused", "gate": gate, "published_total": 978, **changed})


def first_night() -> Night:
    return night(
        predictor_before=None,
        rows={"rows": 988, "new": 988},
        edited={},
        reasons={"new": 988},
        moves=[],
        golden=None,
        drift={},
        gate=[rule("changed", None, 0.1, None)],
        quarantined={"no_content": (None, 3)},
        changes_total=988,
    )


def unchanged_night() -> Night:
    empty = ("rows", "edited", "products", "encoded", "timings", "reasons", "quarantined", "drift")
    nothing = {name: {} for name in empty}
    return night(
        **nothing,
        state="unchanged",
        moves=[],
        categories=[],
        gate=[],
        examples=[],
        golden=None,
        bound_by=None,
        contents_per_s=None,
        changes_total=0,
    )


def points(nights: int) -> list[NightPoint]:
    """One a day, the newest last: most published, every tenth refused, rolled back or approved."""
    rng = np.random.default_rng(0)
    states = ["published"] * 9 + ["refused"] + ["published"] * 9 + ["rolled back"] + ["unchanged"] * 9 + ["approved"]
    return [
        NightPoint(
            run_id=f"run-{place}",
            started=STARTED + timedelta(days=place),
            state=states[place % len(states)],
            products=90_000 + 40 * place,
            changed=int(rng.integers(400, 1500)),
            review_share=float(rng.uniform(0.04, 0.05)),
            quarantined=int(rng.integers(200, 300)),
            computed=int(rng.integers(0, 3000)),
            seconds=float(rng.uniform(600, 900)),
            breached=["changed_per_category"] if states[place % len(states)] == "refused" else [],
            report=f"run-{place}/night.html",
        )
        for place in range(nights)
    ]
