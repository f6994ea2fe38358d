"""Records reach a sink in order, again where it failed, from where it was left; a sink that is away costs nothing."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import configure

from smollm3_ft import files, hubclient, monitoring, report, runs
from smollm3_ft.errors import HubUnreachable, Undelivered
from smollm3_ft.journal import Journal, Record
from smollm3_ft.monitoring import delivery
from smollm3_ft.runs import Run
from tasks import monitoring as carrying
from tasks import setup


class Sink:
    """Takes records, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.got: list[Record] = []
        self.calls: list[int] = []

    def __call__(self, _run: Run, records: list[Record]) -> None:
        if self.away:
            raise Undelivered("it is away", "wait")
        self.got += records
        self.calls.append(len(records))

    @property
    def steps(self) -> list[int | None]:
        return [record.step for record in self.got]


Begin = Callable[..., Run]


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    made = Sink()
    monkeypatch.setitem(monitoring.SINKS, "trackio", made)
    monkeypatch.setitem(monitoring.SECONDS_BETWEEN, "trackio", 0.01)
    monkeypatch.setattr(delivery, "AT_THE_END", 0.0)
    return made


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    return lambda name, **given: runs.begin(configure(name=name, runs_dir=str(tmp_path), **given))


@pytest.fixture
def run(begin: Begin) -> Run:
    return begin("a")


@pytest.fixture
def metrics(run: Run) -> Iterator[Journal]:
    with Journal(run.path / "metrics.jsonl", run.run_id) as journal:
        yield journal


def test_a_sink_that_fails_loses_nothing(sink: Sink, run: Run, metrics: Journal) -> None:
    """What could not be delivered is delivered the next time, from the start of what was missing."""
    metrics.write("train", {"loss": 1.0}, 1)
    sink.away = True
    with pytest.raises(Undelivered):
        delivery.deliver_new("trackio", run)
    metrics.write("train", {"loss": 2.0}, 2)
    sink.away = False
    assert delivery.deliver_new("trackio", run) == 2
    assert delivery.deliver_new("trackio", run) == 0
    assert sink.steps == [1, 2]


def test_a_long_journal_goes_in_batches(
    sink: Sink, run: Run, metrics: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is kept when it is there: one that fails does not send those before it again."""
    monkeypatch.setattr(delivery, "AT_ONCE", 400)
    for step in range(1, 21):
        metrics.write("train", {"loss": 1.0}, step)

    def fail_after_two(_run: Run, records: list[Record]) -> None:
        sink.away = len(sink.calls) == 2
        sink(_run, records)

    monkeypatch.setitem(monitoring.SINKS, "trackio", fail_after_two)
    with pytest.raises(Undelivered):
        delivery.deliver_new("trackio", run)
    monkeypatch.setitem(monitoring.SINKS, "trackio", sink)
    sink.away = False
    delivery.deliver_new("trackio", run)
    assert sink.steps == list(range(1, 21))
    assert max(sink.calls) < 6


def test_another_place_gets_everything(sink: Sink, run: Run, metrics: Journal) -> None:
    """Where a delivery stands is kept by place: a run that is told another one delivers all of it there."""
    metrics.write("train", {"loss": 1.0}, 1)
    delivery.deliver_new("trackio", run)
    monitor = run.config.monitor.model_copy(update={"trackio": "http://127.0.0.1:1"})
    moved = run.model_copy(update={"config": run.config.model_copy(update={"monitor": monitor})})
    assert delivery.deliver_new("trackio", moved) == 1
    assert delivery.deliver_new("trackio", run) == 0


def test_a_journal_that_a_power_cut_shortened(sink: Sink, run: Run) -> None:
    """An offset that is no line's end any more begins again: nothing that came since is left out."""
    path = run.path / "metrics.jsonl"
    with Journal(path, run.run_id) as journal:
        for step in (1, 2, 3):
            journal.write("train", {"loss": 0.5}, step)
    delivery.deliver_new("trackio", run)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with Journal(path, run.run_id) as journal:
        journal.write("train", {"loss": 0.123456789}, 3)
        journal.write("train", {"loss": 0.5}, 4)
    delivery.deliver_new("trackio", run)
    assert sink.steps == [1, 2, 3, 1, 2, 3, 4]


@pytest.mark.parametrize("damaged", ["", "{", "[]"])
def test_a_damaged_note_of_how_far_it_came(sink: Sink, run: Run, metrics: Journal, damaged: str) -> None:
    """Everything is delivered again, with one effect; and the run has its report."""
    metrics.write("train", {"loss": 1.0}, 1)
    delivery.deliver_new("trackio", run)
    (run.path / ".delivered-trackio.json").write_text(damaged)
    assert report.write(run, "failed", [])["monitoring"]["trackio"]["waiting"] == 1
    assert (delivery.deliver_new("trackio", run), sink.steps) == (1, [1, 1])


def test_follow_delivers_until_it_is_told_to_stop(sink: Sink, run: Run, metrics: Journal) -> None:
    """What is written before the end is delivered at the end, and the sink's standing says so."""
    stop, said = threading.Event(), list[str]()
    found: list[delivery.Standing] = []
    following = threading.Thread(target=lambda: found.append(delivery.follow("trackio", run, stop, said.append)))
    following.start()
    for step in (1, 2, 3):
        metrics.write("train", {"loss": 1.0}, step)
    stop.set()
    following.join()
    assert (found, said) == ([delivery.Standing(3, 0)], [])


def test_an_outage_is_said_once_and_over_when_it_is_over(sink: Sink, run: Run, metrics: Journal) -> None:
    """A sink that comes back while training goes on gets everything, once."""
    stop, said, tried = threading.Event(), list[str](), threading.Event()

    def say(words: str) -> None:
        said.append(words)
        tried.set()

    sink.away = True
    metrics.write("train", {"loss": 1.0}, 1)
    following = threading.Thread(target=delivery.follow, args=("trackio", run, stop, say))
    following.start()
    assert tried.wait(60)
    metrics.write("train", {"loss": 1.0}, 2)
    sink.away = False
    stop.set()
    following.join()
    assert (sink.steps, said) == ([1, 2], ["it is away; wait"])


def test_what_waits_at_the_end_is_said_and_stays(sink: Sink, run: Run, metrics: Journal) -> None:
    """A sink that is away at the end is given up after a time; the report says how much waits, and where for."""
    stop = threading.Event()
    stop.set()
    metrics.write("train", {"loss": 1.0}, 1)
    delivery.deliver_new("trackio", run)
    metrics.write("train", {"loss": 1.0}, 2)
    sink.away = True
    with pytest.raises(Undelivered):
        delivery.follow("trackio", run, stop, lambda _: None)
    written = report.write(run, "completed", [])
    assert written["monitoring"] == {"trackio": {"target": "local", "delivered": 1, "waiting": 1}}
    assert "1 records still wait for trackio (local)" in (run.path / "report.md").read_text()


def test_the_report_of_a_finished_run_is_put_right(sink: Sink, run: Run, metrics: Journal) -> None:
    """When what waited is there, the finished run's report says that nothing waits any more; all else stays."""
    metrics.write("train", {"loss": 1.0}, 1)
    before = report.write(run, "completed", [])
    delivery.deliver_new("trackio", run)
    report.write(run, "completed", [])
    after = files.read_json(run.path / "report.json")
    assert after.pop("monitoring") == {"trackio": {"target": "local", "delivered": 1, "waiting": 0}}
    assert "still wait" not in (run.path / "report.md").read_text()
    assert {name: before[name] for name in after if name != "schema_version"} == {
        name: value for name, value in after.items() if name != "schema_version"
    }


def test_the_next_run_delivers_what_another_left(sink: Sink, run: Run, metrics: Journal, begin: Begin) -> None:
    """Any run's start delivers what the others of its folder still have for the same place; not for another one."""
    metrics.write("train", {"loss": 1.0}, 1)
    elsewhere = begin("b", monitor__trackio="http://127.0.0.1:1")
    with Journal(elsewhere.path / "metrics.jsonl", elsewhere.run_id) as journal:
        journal.write("train", {"loss": 1.0}, 7)
    assert delivery.deliver_left("trackio", begin("c")) == 1
    assert sink.steps == [1]


def test_a_report_is_handed_over_once(sink: Sink, run: Run, metrics: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that was handed over is so again when it is another one, and not before."""
    handed: list[str] = []
    monkeypatch.setitem(monitoring.FINISHING, "trackio", lambda run: handed.append(run.name))
    report.write(run, "failed", [])
    delivery.finish("trackio", run)
    delivery.finish("trackio", run)
    report.write(run, "completed", [])
    delivery.finish("trackio", run)
    assert handed == ["a", "a"]


def test_off_is_nothing_in_the_report(begin: Begin) -> None:
    """A sink that is switched off has no line in the report."""
    assert report.write(begin("a", monitor__trackio="off"), "completed", [])["monitoring"] == {}


def test_what_earlier_runs_cannot_hand_over_is_said(
    sink: Sink, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the sink's own words; this run's own records are delivered all the same."""

    def away(*_: object) -> int:
        raise Undelivered("b is another's", "see to it")

    monkeypatch.setattr(delivery, "deliver_left", away)
    with Journal(run.path / "metrics.jsonl", run.run_id) as journal:
        journal.write("train", {"loss": 1.0}, 1)
    stop = threading.Event()
    stop.set()
    carrying._carry("trackio", run, stop)
    assert sink.steps == [1]
    assert "of earlier runs: b is another's; see to it" in caplog.text


def test_training_does_not_wait_long_for_an_experiment_dataset(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for before the training no longer than the account is; the deliveries beside it are more patient."""
    asked = []

    def unreachable(_ask: object, patience: float) -> None:
        asked.append(patience)
        raise HubUnreachable("the Hub does not answer", "try again")

    monkeypatch.delenv("HF_USERNAME", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.setattr(hubclient, "insist", unreachable)
    for named in ("owner/experiments", "experiments"):
        carrying.set_up_experiment_dataset.fn(begin(named[:5], monitor__dataset=named))
    assert asked == [setup.PATIENCE] * 2
