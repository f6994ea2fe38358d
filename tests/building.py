"""Builds a demo Space as the Hub does: out of nothing but its files, variables and secrets."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub import Hub
from hub_model import Repo


class Builder:
    """Runs what a Space holds, with its variables and secrets, as soon as it holds a program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        self.host = f"http://127.0.0.1:{self.port}"
        self.running: subprocess.Popen[bytes] | None = None
        self.hub: Hub | None = None

    def stage(self, repo: Repo) -> str:
        assert self.hub is not None
        if "app.py" not in repo.head.files:
            return "NO_APP_FILE"
        if self.running is None:
            (self.folder / "app.py").write_bytes(repo.head.files["app.py"].content)
            kept = repo.created
            told = self.hub.environment(self.folder, kept["secrets"]["HF_TOKEN"]) | kept["variables"]
            place = {"GRADIO_SERVER_PORT": str(self.port), "PATH": os.environ["PATH"], "PYTHONPATH": ""}
            self.running = subprocess.Popen([sys.executable, "app.py"], cwd=self.folder, env=told | place)
        with socket.socket() as client:
            is_there = client.connect_ex(("127.0.0.1", self.port)) == 0
        return "RUNNING" if is_there else "APP_STARTING" if self.running.poll() is None else "RUNTIME_ERROR"


@contextmanager
def build(folder: Path) -> Iterator[Builder]:
    """A builder, which needs to be told its Hub; what runs is ended with it."""
    made = Builder(folder)
    try:
        yield made
    finally:
        if made.running is not None:
            made.running.kill()
            made.running.wait()
