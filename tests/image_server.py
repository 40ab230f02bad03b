"""A web server on the loopback address that answers as good, busy, slow and broken servers do."""

import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def _photo() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


BODY = _photo()
"""The image behind every good answer."""

LARGE = 1 << 17
"""Bytes of a large answer."""


class Server(ThreadingHTTPServer):
    """Answers by path and remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.under_way = self.most_under_way = 0
        self.photos: dict[str, bytes] = {}
        """Name -> what `/photo/name` answers; other names are not found."""
        self.together = 1
        """Requests that `/together` waits for, to answer them at once."""

    @property
    def site(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, dict(self.headers)))
            first = self.server.count(self.path) == 1
        kind, _, argument = self.path.partition("?")[0].strip("/").partition("/")
        getattr(self, f"answer_{kind}")(argument, first)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self, _: str, first: bool) -> None:
        self.answer(200, BODY)

    def answer_photo(self, name: str, first: bool) -> None:
        self.answer(200, self.server.photos[name]) if name in self.server.photos else self.answer(404)

    def answer_status(self, status: str, first: bool) -> None:
        self.answer(int(status))

    def answer_busy(self, wait: str, first: bool) -> None:
        self.answer(429, Retry_After=wait) if first else self.answer(200, BODY)

    def answer_slow(self, what: str, first: bool) -> None:
        if what == "body":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"\xff")
        self.server.released.wait(30)

    def answer_large(self, how: str, first: bool) -> None:
        self.send_response(200)
        self.send_header(*(("Content-Length", str(LARGE)) if how == "said" else ("Connection", "close")))
        self.end_headers()
        self.wfile.write(bytes(LARGE))
        self.close_connection = True

    def answer_redirect(self, target: str, first: bool) -> None:
        places = {
            "good": "/good",
            "absolute": f"{self.server.site}/good",
            "private": "http://169.254.169.254/latest/meta-data",
            "name": "https://evil.example/a.jpg?token=secret",
            "other-port": "http://127.0.0.1:1/a.jpg",
            "file": "file:///etc/passwd",
            "password": f"http://user:secret@127.0.0.1:{self.server.server_port}/good",
            "garbage": "http://[",
            "loop": "/redirect/loop",
        }
        if target.isdigit():
            places[target] = f"/redirect/{int(target) - 1}" if int(target) > 1 else "/good"
        self.answer(302, Location=places[target])

    def answer_reset(self, always: str, first: bool) -> None:
        if always or first:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            os.close(self.connection.detach())
            self.close_connection = True
        else:
            self.answer(200, BODY)

    def answer_short(self, _: str, first: bool) -> None:
        self.answer(200, BODY, Content_Length=str(len(BODY) + 1))
        self.close_connection = True

    def answer_garbage(self, _: str, first: bool) -> None:
        self.wfile.write(b"no http at all\r\n\r\n")
        self.close_connection = True

    def answer_together(self, _: str, first: bool) -> None:
        with self.server.lock:
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
            if self.server.under_way == self.server.together:
                self.server.released.set()
        self.server.released.wait(10)
        with self.server.lock:
            self.server.under_way -= 1
        self.answer(200, BODY)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server while it runs; requests that wait are let go at the end."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
