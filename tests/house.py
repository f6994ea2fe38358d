"""A folder of runs beside a Prefect server, and the command that is run in it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
from prefect.client.schemas.sorting import FlowRunSort

from flows import server
from smollm3_ft import files

ROOT = Path(__file__).parent.parent
FILES = (
    "config.yaml",
    "plan.json",
    "data/ledger.json",
    "data/quarantine.jsonl",
    "data/report.html",
    "metrics.jsonl",
    "host.jsonl",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/chat_template.jinja",
    "model/generation_config.json",
    "model/README.md",
    "evaluation.json",
    "report.json",
    "report.md",
    "report.html",
)
REUSED = ("prepare data", "evaluate base", "train", "evaluate tuned")


class House(NamedTuple):
    """A folder of runs, and the environment in which the commands find their server."""

    runs_dir: Path
    environment: dict[str, str]

    def start(self, *words: str, program: tuple[str, ...] = ("-m", "flows.finetune")) -> subprocess.Popen[str]:
        """Start the command; its lines can be read as they come."""
        return subprocess.Popen(
            [sys.executable, *program, f"runs_dir={self.runs_dir}", *words],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, program: tuple[str, ...] = ("-m", "flows.finetune")) -> tuple[int, str]:
        """Run the command to its end: its exit code and its output."""
        with self.start(*words, program=program) as process:
            output, _ = process.communicate(timeout=300)
            return process.returncode, output


@contextmanager
def opened(folder: Path) -> Iterator[House]:
    """A server as `make ui` would leave it open, for every run in `folder`."""
    os.environ["PREFECT_HOME"] = str(folder / "home")
    with server.running(folder / "runs"):
        yield House(folder / "runs", dict(os.environ))
    del os.environ["PREFECT_HOME"]


def task_states(house: House, name: str) -> list[dict[str, str]]:
    """For each flow run of that name, in the order of their starts: its own state's name and its tasks'."""
    api, password = (house.environment[f"PREFECT_API_{word}"] for word in ("URL", "AUTH_STRING"))
    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    found = []
    with SyncPrefectClient(api, auth_string=password) as client:
        for run in client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_ASC):
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
            states = {"flow run": run.state_name, **{task.name: task.state_name for task in tasks}}
            found.append({name: str(state) for name, state in states.items()})
    return found


def until(process: subprocess.Popen[str], words: str) -> None:
    """Wait for a line of the command's output."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}")


def kill_server(house: House) -> Callable[[], None]:
    """Kill the server. Returns what starts it again, at its address and with its password."""
    path = house.runs_dir / ".locks" / ".server"
    told = files.read_json(path)
    process = psutil.Process(told["pid"])
    command, environment = process.cmdline(), process.environ()
    process.kill()
    process.wait()

    def start_again() -> None:
        again = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server.STARTED.append(again)
        files.write(path, json.dumps({**told, "pid": again.pid}), mode=0o600)

    return start_again


def training_of(house: House, name: str) -> psutil.Process:
    """The training process of a run, known by its command line."""
    wanted = str(house.runs_dir / name / "plan.json")
    return next(
        process
        for process in psutil.process_iter(["cmdline"])
        if "smollm3_ft.training" in (process.info["cmdline"] or []) and wanted in process.info["cmdline"]
    )


def report_of(house: House, name: str) -> dict[str, Any]:
    return files.read_json(house.runs_dir / name / "report.json")
