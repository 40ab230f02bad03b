"""Starts the server of the app."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path

from streamlit.web import bootstrap

from mmbatch.errors import InputError
from mmbatch.images import MAX_IMAGE_BYTES

SCRIPT = Path(__file__).with_name("main.py")
"""What Streamlit runs for every visit and every click."""

OPTIONS = {
    "server.headless": True,  # opens no browser, asks for no e-mail address
    "server.fileWatcherType": "none",
    "server.maxUploadSize": MAX_IMAGE_BYTES >> 20,
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": True,
    "theme.light.primaryColor": "#2f6fd0",
    "theme.dark.primaryColor": "#7aa7f0",
}
"""Of Streamlit; nothing is fetched from elsewhere, and nothing reported to anybody."""


def serve(workspace: str, *, address: str, port: int, images_from: Sequence[str]) -> None:
    """Serve the app until the process is told to end; `InputError` where the port cannot be had."""
    _check_port(address, port)
    options = OPTIONS | {"server.address": address, "server.port": port}
    bootstrap.load_config_options(options)
    told = json.dumps({"workspace": workspace, "images_from": list(images_from)})
    bootstrap.run(str(SCRIPT), False, [told], options)


def _check_port(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"--port {port}: cannot listen on {address}: {error}") from None
