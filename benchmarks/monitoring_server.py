"""A Trackio server on loopback, in a process of its own, that is killed and started again at the same address."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
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
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        told = {"TRACKIO_DIR": str(self.folder), "TRACKIO_WRITE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        command, environment = [sys.executable, "-c", SHOW, str(self.port)], {**os.environ, **told}
        self.process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if not any(str(self.port) in line for line in self.process.stdout):
            raise RuntimeError("Trackio's server did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
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
