"""A workspace -> a window on it in a browser: try, look, correct, and see what ran."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.image_access import ImageAccess
from mmbatch.models import published_predictor
from mmbatch.predictions import Predictions
from mmbatch.progress import say
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class App(Job):
    """Open a window on a workspace in a browser; what people correct there, the next training reads."""

    port: int = 8501
    """Where the browser finds it."""
    address: str = "127.0.0.1"
    """Who may reach it: this machine alone; 0.0.0.0: whoever reaches this machine. It asks nobody for a password."""
    images_from: tuple[str, ...] = ()
    """Places from which images may be tried by address, as for jobs.ingest: https://host/prefix, s3://bucket/prefix, a
    folder."""


def main(config: App) -> dict[str, Any]:
    """Serve until the process is told to end."""
    workspace, access = Workspace.open(config.workspace), ImageAccess.of(config.images_from)
    if config.dry_run:
        model = published_predictor(workspace)
        products = Predictions(workspace=workspace).table.rows()
        return plan(config, predictor=model.id if model else None, products=products)

    from mmbatch.app.server import serve

    say(f"app        {workspace.uri}: http://{config.address}:{config.port}")
    serve(workspace.uri, address=config.address, port=config.port, images_from=access.places)
    return {"workspace": workspace.uri}


if __name__ == "__main__":
    run_job(App, main)
