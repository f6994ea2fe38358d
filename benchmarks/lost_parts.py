"""Parts of a deployment that are lost in mid-run, on a real Prefect server: how each run ends, and what is repeated.

`python benchmarks/lost_parts.py [--only NAME ...]`; it takes some minutes, and says no goals. Every row is one
training of the built-in model with the same configuration; `same` says that its weights are the undisturbed run's.
"""

import argparse
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from flow_runs import ended, kill_process, until
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import pool_workers, server
from flows.deploy import deploy
from flows.session import SETTINGS
from smollm3_ft import files, journal

ROOT = Path(__file__).parent.parent
STEPS, SAVE = 160, 20
WORDS = {
    "train": {"max_steps": STEPS, "save_steps": SAVE},
    "monitor": {"trackio": "off"},
    "publish": {"target": "none"},
}
OUTAGE = 20  # seconds


class Row(NamedTuple):
    """What became of a run: its exit codes or states, one after the other, and how long the last took to be true.

    `same` is None of a run that made no weights.
    """

    lost: str
    ended: str
    seconds: float
    again: int
    same: bool | None


class Place(NamedTuple):
    """A server that can be killed and started again at its address, and a folder of runs."""

    folder: Path
    api: str
    server: list[subprocess.Popen[bytes]]

    def up(self) -> None:
        port = self.api.rpartition(":")[2].removesuffix("/api")
        command = [*pool_workers.PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port]
        with (self.folder / "server.log").open("ab") as log:
            self.server[:] = [subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)]
        until(lambda: server.listens(self.api))

    def down(self) -> None:
        self.server[0].kill()
        self.server[0].wait()

    def command(self, name: str) -> subprocess.Popen[str]:
        """Start the command line; its output is in a file."""
        words = [f"train.max_steps={STEPS}", f"train.save_steps={SAVE}", "monitor.trackio=off", "publish.target=none"]
        command = [sys.executable, "-m", "flows.finetune", f"name={name}", f"runs_dir={self.runs_dir}", *words]
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True)

    def start(self, client: SyncPrefectClient, deployment: str, name: str) -> UUID:
        """Start a run of a deployment."""
        found = client.read_deployment_by_name(deployment)
        parameters = {"config": {"name": name, "runs_dir": str(self.runs_dir), **WORDS}}
        return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    @property
    def runs_dir(self) -> Path:
        return self.folder / "runs"

    def saved(self, name: str) -> None:
        """Wait for a checkpoint, and a few steps more."""
        path = self.runs_dir / name / "metrics.jsonl"
        until(lambda: any((r.step or 0) > SAVE for r in journal.read(path) if r.kind == "train"))

    def row(self, lost: str, name: str, ended: str, began: float) -> Row:
        """Read what a run left."""
        folder = self.runs_dir / name
        resumed = files.read_json(folder / "report.json")["train"]["resumed_from"]
        again = REACHED[name] - resumed if resumed else 0
        return Row(
            lost,
            ended,
            round(time.monotonic() - began, 1),
            again,
            weights(folder) == weights(self.runs_dir / "undisturbed"),
        )


REACHED: dict[str, int] = {}  # by a run, when a part of it was lost


def note(place: Place, name: str) -> float:
    """Note which step a run has reached, just before a part is lost. Returns the time."""
    records = journal.read(place.runs_dir / name / "metrics.jsonl")
    REACHED[name] = max(record.step or 0 for record in records if record.kind == "train")
    return time.monotonic()


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def states(name: str) -> str:
    """The states of all flow runs of a name, in their order."""
    with get_client(sync_client=True) as client:
        found: list[FlowRun] = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
        return ", ".join(str(run.state_name) for run in sorted(found, key=lambda run: str(run.created)))


def undisturbed(place: Place) -> Row:
    REACHED["undisturbed"] = STEPS
    began = time.monotonic()
    code = place.command("undisturbed").wait()
    return place.row("nothing", "undisturbed", f"exit {code}, {states('undisturbed')}", began)


def server_at_the_start(place: Place) -> Row:
    place.down()
    began = time.monotonic()
    code = place.command("no-server").wait()
    took = round(time.monotonic() - began, 1)
    said = (place.folder / "no-server.log").read_text().strip().splitlines()
    place.up()
    return Row("the server, at the start", f"exit {code}: {' '.join(said[-1:])}", took, 0, None)


def server_for_a_while(place: Place) -> Row:
    process = place.command("outage")
    place.saved("outage")
    began = note(place, "outage")
    place.down()
    time.sleep(OUTAGE)
    place.up()
    code = process.wait()
    return place.row(f"the server, for {OUTAGE} s", "outage", f"exit {code}, {states('outage')}", began)


def server_for_good(place: Place) -> Row:
    process = place.command("gone")
    place.saved("gone")
    began = note(place, "gone")
    place.down()
    first = process.wait()
    place.up()
    second = place.command("gone").wait()
    return place.row("the server, until the run ended", "gone", f"exit {first}, {second}; {states('gone')}", began)


@contextmanager
def working(
    place: Place, client: SyncPrefectClient, deployment: str, name: str
) -> Iterator[tuple[UUID, list[pool_workers.Kept]]]:
    """Workers that are started again when they die, and a run of a deployment that has saved."""
    over = threading.Event()
    with pool_workers.running(place.folder / "logs") as kept:

        def look() -> None:
            while not over.wait(1):
                pool_workers.look_after(kept)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        run = place.start(client, deployment, name)
        place.saved(name)
        try:
            yield run, kept
        finally:
            over.set()
            looking.join()


def server_beside_workers(place: Place, seconds: int) -> Row:
    name = f"pool-{seconds}"
    with get_client(sync_client=True) as client, working(place, client, "finetune/cuda", name) as (run, _):
        began = note(place, name)
        place.down()
        time.sleep(seconds)
        place.up()
        end = ended(client, run)
    return place.row(f"the server, beside workers, for {seconds} s", name, f"{end}; {states(name)}", began)


def worker_with_all(place: Place) -> Row:
    with get_client(sync_client=True) as client, working(place, client, "finetune/cuda", "worker") as (run, kept):
        began = note(place, "worker")
        (one,) = (one for one in kept if one.worker.pool == "cuda")
        for process in pool_workers.of(one.worker):
            process.kill()
        until(lambda: "Crashed" in states("worker"))
        seen = time.monotonic() - began
        end = f"Crashed after {seen:.0f} s, {ended(client, run)}; {states('worker')}"
    return place.row("the worker with its processes", "worker", end, began)


def worker_alone(place: Place) -> Row:
    with get_client(sync_client=True) as client, working(place, client, "finetune/cuda", "orphan") as (run, kept):
        began = note(place, "orphan")
        (one,) = (one for one in kept if one.worker.pool == "cuda")
        one.process.kill()
        end = f"{ended(client, run)}; {states('orphan')}"
    return place.row("the worker alone", "orphan", end, began)


def flow_process(place: Place) -> Row:
    with get_client(sync_client=True) as client, working(place, client, "finetune/local", "flow") as (run, _):
        began = note(place, "flow")
        kill_process(run)
        first = ended(client, run)
        seen = time.monotonic() - began
        again = ended(client, place.start(client, "finetune/local", "flow"))
        end = f"{first} after {seen:.0f} s, started again {again}"
    return place.row("the flow process", "flow", end, began)


LOST: dict[str, Callable[[Place], Row]] = {
    "nothing": undisturbed,
    "server-at-start": server_at_the_start,
    "server-for-a-while": server_for_a_while,
    "server-for-good": server_for_good,
    "server-beside-workers": lambda place: server_beside_workers(place, OUTAGE),
    "server-long": lambda place: server_beside_workers(place, 180),
    "worker-with-all": worker_with_all,
    "worker-alone": worker_alone,
    "flow-process": flow_process,
}


def line(row: Row) -> str:
    kind = {True: "same", False: "other weights", None: "–"}[row.same]
    return f"{row.lost:44} {row.seconds:7.1f} s {row.again:4} steps again, {kind:13}  {row.ended}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", choices=LOST, default=list(LOST))
    chosen = parser.parse_args().only
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
        probe.close()
        os.environ |= {**SETTINGS, "PREFECT_HOME": f"{name}/home", "PREFECT_API_URL": api}
        place = Place(Path(name), api, [])
        place.up()
        try:
            with temporary_settings({PREFECT_API_URL: api}):
                deploy()
                for part in ("nothing", *(part for part in LOST if part in chosen and part != "nothing")):
                    print(line(LOST[part](place)), flush=True)
        finally:
            place.down()


if __name__ == "__main__":
    main()
