"""The night: ingest, extract and predict what is stale, compare, judge, and publish or refuse.

Every step finds for itself what is done, so that a night that was killed goes on by the same command, and one that is
started twice does nothing the second time. What is staged is compared with what is published, whatever happened since:
a night that was refused, skipped or killed is made up for by the next.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from mmbatch.errors import RefusedToPublishError
from mmbatch.gate import Gate, judge
from mmbatch.image_access import ImageAccess
from mmbatch.models import Model, newest_predictor, open_model, published_predictor, reads_sequences
from mmbatch.pipelines.challenge import Retraining, try_challenger
from mmbatch.pipelines.extract import extract
from mmbatch.pipelines.extract_joined import extract_joined
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.measured import measure
from mmbatch.pipelines.metrics import night_done
from mmbatch.pipelines.night_report import JOB, page_uri, write_reports
from mmbatch.pipelines.night_summary import summary
from mmbatch.pipelines.predict import outdated, stage, versions
from mmbatch.pipelines.publish import candidate, described, publish, refuse, settle
from mmbatch.pipelines.rollback import last_taken_back
from mmbatch.predictions import Predictions
from mmbatch.progress import say
from mmbatch.runs import Run, last_run, publications
from mmbatch.sources import Columns
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Where tonight's products come from, and what may be done to the catalog."""

    source: str
    columns: Columns
    access: ImageAccess = field(default_factory=ImageAccess)
    allow_removals: bool = False
    """A snapshot may remove any share of the catalog."""
    allow_older: bool = False
    """The source may be older than the last one."""

    @property
    def snapshot(self) -> bool:
        """Whether the source names the whole catalog; else it is a feed of operations."""
        return self.columns.operation is None

    def arguments(self) -> dict[str, Any]:
        """Of `ingest`."""
        return {
            "source": self.source,
            "columns": self.columns,
            "access": self.access,
            "snapshot": self.snapshot,
            "allow_removals": self.allow_removals,
            "allow_older": self.allow_older,
        }


@dataclass(kw_only=True)
class _Night:
    """What a night has found so far."""

    run: Run
    feed: Feed
    gate: Gate
    champion: Model | None
    """The published predictor; None: nothing is published."""
    chosen: Model
    """The one to predict with."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the ledger."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage, in order."""
    since: float = field(default_factory=time.monotonic)

    def lap(self, stage: str) -> None:
        """A stage is over."""
        self.timings[stage] = time.monotonic() - self.since
        self.since = time.monotonic()
        self.run.speak()  # the stages are runs of their own


def nightly(
    workspace: Workspace, feed: Feed, *, gate: Gate, predictor: str | None = None, retrain: Retraining | None = None
) -> dict[str, Any]:
    """Run one night.

    Args:
        workspace: with a predictor.
        feed: tonight's source.
        gate: limits of what is published without a person.
        predictor: `name@fingerprint` of the one to predict with; None: the published one, or the newest before
            anything is published.
        retrain: what to train a challenger of; it predicts tonight where it is better than the other.

    Returns:
        Ledger entry; `counts.state` is `published` or `unchanged`.

    Raises:
        RefusedToPublishError: a rule of the gate is breached; what was staged can be approved (`approve`).
    """
    settle(workspace)
    night = _Night(
        run=Run(workspace=workspace, job=JOB),
        feed=feed,
        gate=gate,
        champion=published_predictor(workspace),
        chosen=chosen_predictor(workspace, predictor),
    )
    try:
        night.facts["ingest"] = ingest(workspace, **feed.arguments())["counts"]
    except RefusedToPublishError:
        night_done("refused", seconds=time.monotonic() - night.run.clock)
        raise
    night.lap("ingest")
    night.facts["extract"] = _extract(workspace, night.chosen)
    night.lap("extract")
    if retrain is not None:
        _challenge(workspace, night, retrain)
    entry = _predict(workspace, night)
    write_reports(workspace)
    night_done(entry["counts"]["state"], seconds=time.monotonic() - night.run.clock)
    if entry["counts"]["state"] == "refused":
        raise RefusedToPublishError(_refusal(workspace, entry), entry)
    return entry


def chosen_predictor(workspace: Workspace, predictor: str | None) -> Model:
    """The named predictor; without a name the published one, and before anything is published the newest."""
    if predictor is not None:
        return open_model(workspace, kind="predictor", model_id=predictor)
    champion, newest = published_predictor(workspace), newest_predictor(workspace)
    if champion is not None and champion.id != newest.id:
        say(f"night      with the published predictor; {newest.id} is newer: --predictor takes it")
    return champion or newest


def _challenge(workspace: Workspace, night: _Night, retrain: Retraining) -> None:
    """Let a challenger predict tonight if it wins; of new encoders, the features of all products are computed then."""
    trial = try_challenger(workspace, retrain, champion=night.chosen, smallest=night.gate.smallest)
    night.facts["trial"] = trial.facts
    night.lap("retrain")
    if trial.winner.id != night.chosen.id:
        night.chosen = trial.winner
        night.facts["extract"] = _extract(workspace, trial.winner)
        night.lap("extract for the challenger")


def _extract(workspace: Workspace, predictor: Model) -> dict[str, Any]:
    """Features of the predictor's encoders, and of its head where that reads sequences."""
    encoders = [open_model(workspace, kind="encoder", model_id=model_id) for model_id in predictor.card["encoders"]]
    counts: dict[str, Any] = dict(extract(workspace, encoders)["counts"])
    if predictor.card.get("head"):
        head = open_model(workspace, kind="head", model_id=predictor.card["head"])
        if reads_sequences(head):
            counts["joined"] = extract_joined(workspace, head)["counts"]
    return counts


def _predict(workspace: Workspace, night: _Night) -> dict[str, Any]:
    """Stage, compare, judge, and publish or refuse; the ledger entry, of an earlier night where that did the same."""
    run, history = night.run, TaxonomyHistory.read(workspace)
    run.settings = {
        "source": night.feed.source,
        "predictor": history.identity(night.chosen.id),
        "gate": asdict(night.gate),
    }
    found = outdated(workspace, night.chosen)
    night.lap("plan")
    if (earlier := _earlier(workspace, run)) is not None:
        return earlier
    if not found.per_bucket:
        say("night      every prediction stands: nothing to publish")
        products = dict(found.counts, predicted=0, unpredictable=0)
        return run.finish(_counts(night, products, state="unchanged"), versions(workspace))
    products = stage(workspace, night.chosen, found, run_id=run.run_id)
    night.lap("predict")
    new = candidate(workspace, found.per_bucket, run_id=run.run_id, taken_back=last_taken_back(workspace))
    night.lap("compare")
    measured = measure(workspace, new, chosen=night.chosen, champion=night.champion)
    rules = judge(night.gate, measured)
    night.lap("gate")
    breached = [rule for rule in rules if rule.passed is False]
    facts = described(workspace, new) | summary(workspace, new, measured, rules)
    counts = _counts(night, products, state="refused" if breached else "published") | facts
    if breached:
        return refuse(workspace, new.publication(run.entry(counts, versions(workspace)), refused=True))
    return publish(workspace, new.publication(run.entry(counts, versions(workspace) | {"predictions": new.version})))


def _counts(night: _Night, products: dict[str, int], *, state: str) -> dict[str, Any]:
    last = next(iter(publications(night.run.workspace)), None)
    before = last["settings"]["predictor"] if last else None
    return {"state": state, "predictor_before": before, "products": products, "timings": night.timings, **night.facts}


def _earlier(workspace: Workspace, run: Run) -> dict[str, Any] | None:
    """The last night's entry where it had the same to do and did it, or has staged it and waits for a person."""
    last = last_run(workspace, JOB)
    settings = json.loads(json.dumps(dict(run.settings)))
    if last is None or last["settings"] != settings or last["versions"] != versions(workspace):
        return None
    if last["counts"]["state"] == "refused" and not Predictions(workspace=workspace).waits(last["run_id"]):
        return None
    say(f"night      found {last['run_id']}, which had the same to do")
    return {name: last[name] for name in ("run_id", "job", "counts")} | {"seconds": 0.0}


def _refusal(workspace: Workspace, entry: dict[str, Any]) -> str:
    breached = "; ".join(rule["sentence"].rstrip(".") for rule in entry["counts"]["gate"] if rule["passed"] is False)
    run_id = entry["run_id"]
    return (
        f"nothing is published, {run_id} is staged: {breached}. Look at {page_uri(workspace, run_id)}, then publish it"
        f" by --approve {run_id}, or mend the source or the predictor and run again"
    )
