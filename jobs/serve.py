"""Predictor, encoders -> an HTTP endpoint that answers as the batch jobs would."""

from dataclasses import dataclass, field
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.errors import InputError
from mmbatch.image_access import ImageAccess
from mmbatch.limits import Limits
from mmbatch.models import newest_predictor, open_model, published_predictor
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Serve(Job):
    """Answer over HTTP with what the batch jobs would publish of a product, until the process is told to end."""

    predictor: str | None = None
    """name@fingerprint of the predictor; default: the published one, or, before anything is, the one stored last."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0: all of this machine, behind something that speaks TLS and knows its callers."""
    port: int = 8000
    """Port to listen at."""
    replicas: int = 1
    """Processes that hold the models, of one processor and, where there are GPUs, one GPU each."""
    images_from: tuple[str, ...] = ()
    """Where `image_url` may lead: https://host[/prefix], s3://bucket/prefix or folders. Default: nowhere."""
    limits: Limits = field(default_factory=Limits)
    """What one replica takes on."""


def main(config: Serve) -> dict[str, Any]:
    """Serve one predictor."""
    workspace = Workspace.open(config.workspace)
    access = ImageAccess.of(config.images_from)
    config.limits.require_usable()
    if not 1 <= config.port <= 65535:
        raise InputError(f"--port {config.port}: expected 1 to 65535")
    if config.replicas < 1:
        raise InputError(f"--replicas {config.replicas}: expected 1 or more")
    if config.predictor:
        model = open_model(workspace, kind="predictor", model_id=config.predictor)
    else:
        model = published_predictor(workspace) or newest_predictor(workspace)
    if config.dry_run:
        return plan(config, predictor=model.id, encoders=model.card["encoders"])

    from mmbatch.pipelines.serve import run

    return run(
        workspace,
        model,
        host=config.host,
        port=config.port,
        replicas=config.replicas,
        access=access,
        limits=config.limits,
    )


if __name__ == "__main__":
    run_job(Serve, main)
