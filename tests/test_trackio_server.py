"""What a real Trackio server on loopback has is what the journals have, point by point, whatever happened between."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import configure
from hub import hub
from trackios import TOKEN, Server, points

from smollm3_ft import journal, report, runs, services
from smollm3_ft.errors import Undelivered
from smollm3_ft.journal import Journal
from smollm3_ft.monitoring import delivery, remote_trackio
from smollm3_ft.runs import Run

FOLLOW = """
import sys, threading
from pathlib import Path
from smollm3_ft import runs
from smollm3_ft.monitoring import delivery
delivery.follow("trackio", runs.read(Path(sys.argv[1])), threading.Event(), lambda said: print(said, flush=True))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("trackio")) as made:
        made.start()
        yield made


@pytest.fixture
def up(server: Server) -> Iterator[Server]:
    """The server, and up again for whoever comes next."""
    yield server
    if server.process is None:
        server.start()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", f"{TOKEN}\n")
    monkeypatch.setattr(delivery, "AT_THE_END", 0.0)


@pytest.fixture
def run(tmp_path: Path, server: Server) -> Run:
    return runs.begin(configure(name="a", runs_dir=str(tmp_path), monitor__trackio=server.url, seed=7))


def go_on(run: Run, first: int, last: int) -> None:
    """Steps of a training that began again at `first`, with what its journals get."""
    with (
        Journal(run.path / "metrics.jsonl", run.run_id) as metrics,
        Journal(run.path / "host.jsonl", run.run_id) as host,
    ):
        metrics.write("event", {"what": "resumed" if first > 1 else "started"}, first - 1)
        for step in range(first, last + 1):
            metrics.write("train", {"loss": 1 / step, "learning_rate": 1e-3 * step}, step)
            host.write("system", {"cpu_percent": float(step)})
        metrics.write("eval", {"loss": 2 / last}, last)
        metrics.write("alert", {"what": f"look at {last}", "level": "warning"}, last)


def check_all_there(server: Server, run: Run) -> None:
    """The server's points, samples, alerts and configuration are the journals': none lost, none twice."""
    everything = [record for name in delivery.JOURNALS for record in journal.read(run.path / name)]
    assert server.points(run.run_id) == points(run)
    samples = server.ask("get_system_logs", run=None, run_id=run.run_id)
    assert [one["cpu_percent"] for one in samples] == [
        r.values["cpu_percent"] for r in everything if r.kind == "system"
    ]
    said = sorted((alert["title"], alert["level"]) for alert in server.ask("get_alerts", run_id=run.run_id))
    levels = {"alert": "warn", "event": "info"}
    assert said == sorted((r.values["what"], levels[r.kind]) for r in everything if r.kind in levels)
    assert server.ask("get_run_configs")[run.run_id]["seed"] == 7


def test_what_is_read_back_is_the_journal(server: Server, run: Run) -> None:
    """Every value at its step with its own time, samples, alerts and configuration; again, and nothing is twice."""
    go_on(run, 1, 30)
    delivery.deliver_new("trackio", run)
    (run.path / ".delivered-trackio.json").unlink()  # as after a kill between a batch and the note of it
    delivery.deliver_new("trackio", run)
    check_all_there(server, run)


def test_a_resumed_run_is_one_run(server: Server, run: Run) -> None:
    """Steps made again after a kill are not there twice, none is missing, and the run is one."""
    go_on(run, 1, 17)
    delivery.deliver_new("trackio", run)
    go_on(run, 11, 30)
    delivery.deliver_new("trackio", run)
    check_all_there(server, run)
    assert [step for step, name, *_ in server.points(run.run_id) if name == "train/loss"] == list(range(1, 31))
    assert [one["id"] for one in server.ask("get_runs_for_project")].count(run.run_id) == 1


def test_a_server_killed_in_the_middle(up: Server, run: Run) -> None:
    """What came while it was away arrives when it is back."""
    go_on(run, 1, 10)
    delivery.deliver_new("trackio", run)
    up.kill()
    go_on(run, 11, 20)
    with pytest.raises(Undelivered, match=r"does not answer"):
        delivery.deliver_new("trackio", run)
    up.start()
    delivery.deliver_new("trackio", run)
    check_all_there(up, run)


def test_a_client_killed_while_the_server_was_away(up: Server, run: Run) -> None:
    """Server and client killed, the run over: the next run's start delivers everything."""
    go_on(run, 1, 10)
    delivery.deliver_new("trackio", run)
    up.kill()
    go_on(run, 11, 20)
    with subprocess.Popen([sys.executable, "-c", FOLLOW, run.folder], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert "does not answer" in client.stdout.readline()
        go_on(run, 21, 25)
        client.send_signal(signal.SIGKILL)
    up.start()
    another = runs.begin(run.config.model_copy(update={"name": "b"}))
    delivery.deliver_left("trackio", another)
    check_all_there(up, run)


def test_a_run_started_over_is_another_run(server: Server, run: Run) -> None:
    """Under the old name, the run of `--fresh` has its own curve."""
    go_on(run, 1, 5)
    delivery.deliver_new("trackio", run)
    runs.set_aside(run.path.parent, "a")
    anew = runs.begin(run.config)
    go_on(anew, 1, 3)
    delivery.deliver_new("trackio", anew)
    check_all_there(server, anew)
    assert len({step for step, *_ in server.points(run.run_id)}) == 5


def test_report_ledger_and_curve_are_attached(server: Server, run: Run) -> None:
    """Trackio has them as an artifact of the run, with what the files hold."""
    go_on(run, 1, 5)
    delivery.deliver_new("trackio", run)
    report.write(run, "completed", [])
    delivery.finish("trackio", run)
    (artifact,) = server.ask("get_run_artifacts", run_id=run.run_id)["output"]
    manifest = server.ask("get_artifact_manifest", name=artifact["name"], spec=f"v{artifact['version']}")["manifest"]
    assert {entry["path"]: entry["size"] > 0 for entry in manifest} == {"report.md": True, "loss.svg": True}


def test_a_wrong_token_is_said_without_it(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: who refuses, and what to set."""
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "another-secret")
    with pytest.raises(Undelivered) as caught:
        remote_trackio.check(run)
    assert (
        str(caught.value)
        == f"Trackio on {server.url} does not let us write; set TRACKIO_WRITE_TOKEN to its write token"
    )


def test_a_token_that_is_none_is_said_without_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client would show it whole in its own error."""
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "two\nlines")
    with pytest.raises(Undelivered, match=r"^TRACKIO_WRITE_TOKEN holds something that is no token; [^\n]*$"):
        remote_trackio.check(run)


def at(run: Run, place: str) -> Run:
    """The run, told another place."""
    monitor = run.config.monitor.model_copy(update={"trackio": place})
    return run.model_copy(update={"config": run.config.model_copy(update={"monitor": monitor})})


@pytest.mark.parametrize(
    ("routes", "words"),
    [({}, "answers 404"), ({"GET /version": lambda _: ["a list"]}, "is no Trackio that this version can write to")],
)
def test_something_else_at_the_address(run: Run, routes: dict[str, Any], words: str) -> None:
    """A server that is no Trackio is not written to."""
    with hub(routes) as other, pytest.raises(Undelivered, match=words):
        remote_trackio.check(at(run, other.url))


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:1", "http://127.0.0.1:99999", "http://nowhere.invalid", "http://["]
)
def test_nobody_at_the_address(run: Run, place: str) -> None:
    """Whatever the address, it is said in a line."""
    with pytest.raises(Undelivered, match=r"^Trackio on [^\n]* does not answer \([^\n]+\)$"):
        remote_trackio.check(at(run, place))


def test_the_check_writes_nothing(server: Server, run: Run) -> None:
    """A run that logged nothing is not there."""
    remote_trackio.check(run)
    assert run.run_id not in json.dumps(server.ask("get_runs_for_project"))


def test_doctor_says_whether_a_server_takes_what_we_send(up: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its token it does; with another it is a fault, and neither token is told."""
    monkeypatch.setenv("TRACKIO_SERVER_URL", up.url)
    assert services.trackio() == ("ok", f"TRACKIO_SERVER_URL: {up.url} takes what we send", "")
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "another")
    found = services.trackio()
    assert (found.status, found.remedy) == ("fault", "set TRACKIO_WRITE_TOKEN to its write token")
    assert "another" not in str(found)
