"""Gate: whether staged predictions may be published."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one rule of the gate found."""

    name: str
    measured: float | None
    """None: nothing could be measured."""
    limit: float | None
    """None: the rule has none."""
    passed: bool | None
    """None: not judged."""
    worst: str
    """The category, reason or feature that it is of; empty where there is only one."""
    sentence: str
    """For a person: what was measured, the limit, or why it was not judged."""
