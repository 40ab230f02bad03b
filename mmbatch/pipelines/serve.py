"""Online prediction as a service: Ray Serve keeps replicas of the endpoint, each with every model loaded."""

import asyncio
import itertools
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from mmbatch.endpoint import build_app
from mmbatch.errors import InputError
from mmbatch.image_access import ImageAccess
from mmbatch.image_web import WebLimits
from mmbatch.limits import Limits
from mmbatch.models import Model, fetch_model
from mmbatch.online import Answers, OnlinePredictor, Stored, together
from mmbatch.pipelines.capacity import processors, require
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.ray_failures import said_error
from mmbatch.pipelines.resources import SERVE, Ask, joined, on_gpu
from mmbatch.progress import say
from mmbatch.source_types import Checked
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

SPARE = 16
"""Requests beyond `Limits.waiting` that a replica is given: it has to answer that they are too many, and its health."""

APPLICATION = "mmbatch"
"""What the service is called among those of a cluster."""

START_S = 60
"""Seconds that a local Ray gives the process which listens; by default 5, which a busy machine exceeds."""


@serve.ingress()
class Replica:
    """One process with all models: requests are checked at the same time, and predicted in batches."""

    def __init__(
        self, workspace: Workspace, model: Model, *, history: TaxonomyHistory, access: ImageAccess, limits: Limits
    ) -> None:
        self._limits = limits
        self._positions = itertools.count()
        self._checks = ThreadPoolExecutor(limits.waiting)
        self._network = ThreadPoolExecutor(1)  # the networks work for one batch at a time
        web = WebLimits(total=limits.seconds, attempts=2)
        self._loading = self._network.submit(
            OnlinePredictor.load, workspace, model, history=history, threads=1, access=access, web=web
        )
        batches: Any = self.answer
        batches.set_max_batch_size(limits.batch_size)
        batches.set_batch_wait_timeout_s(limits.batch_wait)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for it once this object is made."""
        return build_app(self, self._limits)

    def check_health(self) -> None:
        """Ray Serve asks from time to time, and replaces a replica that raises."""
        if self._loading.done():
            self._loading.result()

    def ready(self) -> str | None:
        """As `Service.ready`."""
        return self._loading.result().id if self._loading.done() else None

    async def loaded(self) -> str:
        """What `ready` says as soon as it says something."""
        return (await asyncio.wrap_future(self._loading)).id

    async def check(self, product: dict[str, Any]) -> Checked:
        """As `Service.check`."""
        online, first = await asyncio.wrap_future(self._loading), next(self._positions)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._checks, lambda: online.check([product], first=first))

    @serve.batch
    async def answer(self, checked: list[Checked]) -> list[Answers]:
        """As `Service.answer`, of many requests at a time."""
        loop, online = asyncio.get_running_loop(), self._loading.result()
        found = await loop.run_in_executor(self._network, online.predict_checked, together(checked))
        return [found.of(_position(one)) for one in checked]


def run(
    workspace: Workspace,
    model: Model,
    *,
    host: str,
    port: int,
    replicas: int,
    access: ImageAccess,
    limits: Limits,
) -> dict[str, Any]:
    """Serve until the process is told to end (SIGTERM, SIGINT); requests under way are answered before.

    `InputError` where the models cannot be loaded, or nothing can listen at host and port; `ClusterError` where there
    is no room for the replicas.
    """
    stored = Stored.of(workspace, model)
    for part in (model, *stored.encoders, *filter(None, [stored.head])):
        fetch_model(part)
    if not joined():
        _require_free(host, port)
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(START_S))
    start_ray(workspace)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ask = on_gpu(SERVE, processors()[1])
    require((ask, replicas))
    replica = _deployment(replicas, limits, ask)
    history = TaxonomyHistory.read(workspace)
    address = f"http://{host}:{port}"
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port))
        service = replica.bind(workspace, model, history=history, access=access, limits=limits)
        predictor = _loaded(serve.run(service, name=APPLICATION))
        say(f"serve      {predictor} answers at {address}/predict, described at {address}/docs")
        threading.Event().wait()
    except KeyboardInterrupt:
        say("serve      ending: requests under way are answered first")
    finally:
        serve.delete(APPLICATION)  # a cluster may serve other applications too
    return {"job": "serve", "predictor": history.identity(model.id), "address": address}


def _deployment(replicas: int, limits: Limits, ask: Ask) -> serve.Deployment:
    options = serve.deployment(
        name="predict",
        num_replicas=replicas,
        max_ongoing_requests=limits.waiting + SPARE,
        graceful_shutdown_timeout_s=limits.seconds,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options=ask.options,
        logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
    )
    return options(Replica)


def _loaded(handle: Any) -> str:
    """What answers, once it does."""
    try:
        return str(handle.loaded.remote().result())
    except RayError as error:
        raise said_error(error, SERVE.stage) or error from None


def _require_free(host: str, port: int) -> None:
    """Ray Serve shares a port with whoever has it already."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there: {error.strerror}") from None


def _position(checked: Checked) -> int:
    rows = checked.rows if len(checked.rows) else checked.rejects
    return int(rows["position"][0].as_py())
