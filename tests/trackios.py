"""A real Trackio server on loopback: started, killed, started again at the same address, and asked what it has."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from smollm3_ft import journal
from smollm3_ft.runs import Run

PROJECT = "smollm3-ft"
TOKEN = "the-write-token"
SHOW = "import sys, trackio; trackio.show(open_browser=False, block_thread=True, server_port=int(sys.argv[1]))"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def points(run: Run) -> list[tuple[int | None, str, float, Any]]:
    """Every value of the run's journal by step: step, name, the time it was logged, and what it was."""
    records = [r for r in journal.read(run.path / "metrics.jsonl") if r.kind in ("train", "eval")]
    return sorted((r.step, f"{r.kind}/{key}", r.time, v) for r in records for key, v in r.values.items())


class Server:
    """Trackio with its data in `folder`. `environment` is added to its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.log = folder.with_suffix(".log")  # a pipe that nobody reads would fill, and hold it up
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        told = {"TRACKIO_DIR": str(folder), "TRACKIO_WRITE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        self.environment = {**os.environ, **told, "HF_HUB_OFFLINE": "1", **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it says that it is there."""
        command = [sys.executable, "-c", SHOW, str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        while str(self.port) not in self.log.read_text(encoding="utf-8"):
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def ask(self, what: str, **given: Any) -> Any:
        """What one of Trackio's own questions is answered with."""
        body = json.dumps({"project": PROJECT, **given}).encode()
        request = urllib.request.Request(f"{self.url}/api/{what}", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def points(self, run_id: str) -> list[tuple[int, str, float, Any]]:
        """The same of what the server has."""
        logs = self.ask("get_logs", run=None, run_id=run_id)
        return sorted(
            (log["step"], name, log["wall_time"], value)
            for log in logs
            for name, value in log.items()
            if name.startswith(("train/", "eval/"))
        )
