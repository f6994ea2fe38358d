"""A long outage: the server killed, the client killed in the middle of it, both started later, the server killed again.

As a client: python monitoring_outage.py RUN_FOLDER
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import monitoring_server

from smollm3_ft import journal, resolve, runs
from smollm3_ft.errors import Undelivered
from smollm3_ft.journal import Journal
from smollm3_ft.monitoring import delivery, trackio_rows
from smollm3_ft.runs import Run

SECONDS_A_STEP = 0.02
ALERT_EVERY = 100
SYSTEM_EVERY = 10
QUIET = 10.0  # seconds with a server, before and after


class Training(threading.Thread):
    """Writes the journals as a training does, until told to stop."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run_, self.stop = run, threading.Event()

    def run(self) -> None:
        metrics, host = (Journal(self.run_.path / name, self.run_.run_id) for name in delivery.JOURNALS)
        step = 0
        with metrics, host:
            while not self.stop.wait(SECONDS_A_STEP):
                step += 1
                metrics.write("train", {"loss": 1 / step}, step)
                if step % SYSTEM_EVERY == 0:
                    host.write("system", {"cpu_percent": float(step)})
                if step % ALERT_EVERY == 0:
                    metrics.write("alert", {"what": f"look at {step}", "level": "warning"}, step)


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Everything that is written while this goes on, against what the server has in the end."""
    os.environ["TRACKIO_WRITE_TOKEN"] = monitoring_server.TOKEN
    with monitoring_server.served(folder / "server") as server:
        run = _begin(folder / "runs", "a", server.url)
        training, client = Training(run), _client(run)
        training.start()
        try:
            time.sleep(QUIET)
            server.kill()
            time.sleep(seconds / 2)
            client.kill()
            client.wait()
            client = _client(run)
            time.sleep(seconds / 2)
            server.start()
            time.sleep(QUIET)
            server.kill()
            training.stop.set()
            training.join()
            client.send_signal(signal.SIGTERM)
            client.wait()
        finally:
            training.stop.set()
            client.kill()
            client.wait()
            training.join()
        server.start()
        delivery.deliver_left("trackio", _begin(folder / "runs", "b", server.url))  # the next start, of another run
        return _compared(run, server)


def _compared(run: Run, server: monitoring_server.Server) -> dict[str, Any]:
    written = [record for name in delivery.JOURNALS for record in journal.read(run.path / name)]
    has = server.has()
    true = sorted((record.step, record.values["loss"]) for record in written if record.kind == "train")
    wrong = len(set(true) - set(server.steps()))  # not there, or with another value, or at another step
    rows = trackio_rows.of(run, written)
    ids = {entry["log_id"] for entry in rows.metrics + rows.system} | {entry["alert_id"] for entry in rows.alerts}
    lost = len(written) - len(ids & set(has))  # two records of one id are one there
    return {"records": len(written), "lost": max(lost, wrong), "twice": sum(has.values()) - len(has)}


def _begin(folder: Path, name: str, url: str) -> Run:
    return runs.begin(resolve.resolve({"name": name, "runs_dir": str(folder), "monitor": {"trackio": url}}, {}).config)


def _client(run: Run) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, run.folder], stdout=sys.stderr)


def _follow(folder: Path) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run = runs.read(folder)
    try:
        delivery.follow("trackio", run, stop, lambda said: print(said, flush=True))
    except Undelivered as error:
        print(f"at the end: {error}", flush=True)


if __name__ == "__main__":
    _follow(Path(sys.argv[1]))
