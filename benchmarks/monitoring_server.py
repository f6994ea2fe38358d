"""A Trackio server on loopback, in a process of its own, that is killed and started again at the same address."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = "benchmark"
SHOW = "import sys, trackio; trackio.show(open_browser=False, block_thread=True, server_port=int(sys.argv[1]))"
TABLES = {"metrics": "log_id", "system_metrics": "log_id", "alerts": "alert_id"}


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")  # a pipe that nobody reads would fill, and hold it up
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        told = {"TRACKIO_DIR": str(self.folder), "TRACKIO_WRITE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        command, environment = [sys.executable, "-c", SHOW, str(self.port)], {**os.environ, **told}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while str(self.port) not in self.log.read_text(encoding="utf-8"):
            if self.process.poll() is not None:
                raise RuntimeError(f"Trackio's server did not start: {self.log.read_text(encoding='utf-8')}")
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def has(self) -> Counter[str]:
        """How often each record is there, by its id."""
        with contextlib.closing(sqlite3.connect(self.folder / "smollm3-ft.db")) as database:
            asked = (f"SELECT {name} FROM {table}" for table, name in TABLES.items())
            return Counter(row[0] for words in asked for row in database.execute(words))

    def steps(self) -> list[tuple[int, float]]:
        """The step and the loss of each point."""
        with contextlib.closing(sqlite3.connect(self.folder / "smollm3-ft.db")) as database:
            words = "SELECT step, json_extract(CAST(metrics AS TEXT), '$.\"train/loss\"') FROM metrics"
            return sorted(database.execute(words))


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
