"""How fast the service answers: latency and throughput at 1, 8 and 64 clients, batched and one product at a time.

    python -m benchmarks.serving --workspace ws --source catalog.parquet --out serving.json

Starts `jobs.serve` on this machine for each way of batching, asks it for products of a Parquet file with the columns
`title`, `description` and `image`, and ends it. A client asks again as soon as it has its answer. Clients, service and
everything else share the machine's processors.
"""

import asyncio
import base64
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pyarrow.parquet as pq
import tyro

CLIENTS = (1, 8, 64)
START_S = 300.0
WAYS = {"batched": (), "one at a time": ("--limits.batch-size", "1", "--limits.batch-wait", "0")}


@dataclass(frozen=True, kw_only=True)
class Config:
    workspace: str
    """Workspace with a predictor."""
    source: str
    """Parquet file of products: title, description, image (bytes)."""
    requests: int = 400
    """Requests of each measurement, after a tenth as many that are not counted."""
    replicas: int = 1
    """Of the service."""
    out: str | None = None
    """JSON file for the figures."""


def main(config: Config) -> None:
    bodies = products(config.source)
    rows = []
    for way, flags in WAYS.items():
        with service(config, flags) as address:
            rows += [
                {"way": way, **asyncio.run(measure(address, bodies, clients, config.requests))} for clients in CLIENTS
            ]
    for row in rows:
        print(
            f"{row['way']:<14} {row['clients']:>3} clients  p50 {row['p50_ms']:7.1f} ms  p95 {row['p95_ms']:7.1f} ms"
            f"  {row['per_second']:7.1f} products/s  {row['failed']} failed"
        )
    if config.out:
        found = {"processors": os.cpu_count(), "replicas": config.replicas, "requests": config.requests, "rows": rows}
        Path(config.out).write_text(json.dumps(found, indent=1))


def products(source: str) -> list[bytes]:
    """Request bodies, each with a text or an image."""
    rows = pq.read_table(source, columns=["title", "description", "image"]).to_pylist()
    encoded = [
        row | {"image": None if row["image"] is None else base64.b64encode(row["image"]).decode()}
        for row in rows
        if row["title"] or row["description"]
    ]
    return [json.dumps(row).encode() for row in encoded]


@contextmanager
def service(config: Config, flags: Sequence[str]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "jobs.serve", "--workspace", config.workspace, "--port", str(port)]
    process = subprocess.Popen([*command, "--replicas", str(config.replicas), *flags])
    address = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(ready(address))
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)


async def ready(address: str) -> None:
    """Returns once the models are loaded; `TimeoutError` after `START_S` seconds."""
    async with asyncio.timeout(START_S), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{address}/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.2)


async def measure(address: str, bodies: Sequence[bytes], clients: int, requests: int) -> dict[str, Any]:
    """Figures of `requests` requests by some clients at the same time."""
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(address, connector=connector) as session:
        await drive(session, bodies, clients, requests // 10)
        start = time.perf_counter()
        found = await drive(session, bodies, clients, requests)
        seconds = time.perf_counter() - start
    good = np.array([latency for latency, status in found if status == 200])
    return {
        "clients": clients,
        "p50_ms": 1e3 * float(np.percentile(good, 50)),
        "p95_ms": 1e3 * float(np.percentile(good, 95)),
        "per_second": len(good) / seconds,
        "failed": len(found) - len(good),
    }


async def drive(
    session: aiohttp.ClientSession, bodies: Sequence[bytes], clients: int, requests: int
) -> list[tuple[float, int]]:
    """Seconds and HTTP status of each request."""
    waiting = iter(itertools.islice(itertools.cycle(bodies), requests))
    found: list[tuple[float, int]] = []

    async def client() -> None:
        for body in waiting:
            start = time.perf_counter()
            async with session.post("/predict", data=body) as response:
                await response.read()
                found.append((time.perf_counter() - start, response.status))

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
