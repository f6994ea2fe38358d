"""Whole sweeps against a real server: one after the other here, killed in the second trial; and on a pool."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import deployed
import pytest
from children import watched
from conftest import facts, write_rows
from deployed import Deployed, processes_of
from house import ROOT, House, report_of, task_states, until
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter, TaskRunFilterName

from smollm3_ft import checkpoints, files, journal, records, runs, trials

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "--accept-changes"),
        (["sweep.space.train.learnig_rate.low=1"], 2, "did you mean train.learning_rate?"),
        (["data.source=nothing.jsonl", "sweep.space.train.lora.r.choices=[4,8]"], 2, "there is no nothing.jsonl"),
    ],
)
def test_help_and_mistakes_import_nothing_heavy(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    """What is wrong is said in a line, without torch, Prefect or Optuna."""
    done = watched("flows.sweep", *words, *([f"runs_dir={tmp_path}"] if code else []))
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "imported: []" in done.stdout
    assert len(done.stderr.splitlines()) == (1 if code else 0)


class Swept(NamedTuple):
    """A sweep that was killed and gone on with, and what its report says."""

    house: House
    output: str
    report: dict[str, Any]

    def folder(self, *parts: str) -> Path:
        return self.house.runs_dir.joinpath(*parts)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A server with a worker of `default` and two of `cuda`."""
    with deployed.opened(tmp_path_factory.mktemp("sweeps"), "cuda-2") as found:
        yield found


@pytest.fixture(scope="module")
def source(place: Deployed) -> Path:
    return write_rows(place.runs_dir.parent / "rows.jsonl", facts(80))


@pytest.fixture(scope="module")
def swept(place: Deployed, source: Path) -> Swept:
    """With this seed the first learning rate is a good one, and the second is next to nothing."""
    words = ["name=s", "seed=92", f"data.source={source}", "data.validation=16", "data.test=8", "monitor.trackio=off"]
    words += ["train.max_steps=60", "train.eval_steps=20", "train.save_steps=5", "evaluate.samples=0", "sweep.trials=2"]
    words += ["sweep.space.train.learning_rate={low: 1e-8, high: 1e-2, log: true}", "sweep.publish_best=true"]
    house = House(place.runs_dir, dict(os.environ))
    with start(house, *words) as process:
        until(process, "trial 2 of 2")
        until(process, "step 5: checkpoint")
        process.kill()
    with start(house, *words) as process:
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return Swept(house, output, files.read_json(house.runs_dir / ".sweeps" / "s" / "report.json"))


def start(house: House, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.sweep", f"runs_dir={house.runs_dir}", *words],
        cwd=ROOT,
        env=house.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_sweep_goes_on_where_it_was(swept: Swept) -> None:
    """The finished trial is not trained again, the one that was killed goes on from its checkpoint."""
    assert "trial 1 of 2" not in swept.output
    assert report_of(swept.house, "s-1")["train"]["resumed_from"] is None
    events = [record.values for record in journal.read(swept.folder("s-2") / "metrics.jsonl") if record.kind == "event"]
    assert [event["what"] for event in events].count("resumed") == 1


def test_trials_share_data_and_the_evaluation_of_the_base_model(swept: Swept) -> None:
    """Evaluated: the base model once, and the one that was trained to the end."""
    first, second = (runs.marks(runs.read(swept.folder(name))) for name in ("s-1", "s-2"))
    shared = ("prepare data", "evaluate base")
    assert {step: first[step] for step in shared} == {step: second[step] for step in shared}
    assert "evaluate tuned" not in second


def test_a_hopeless_trial_ends_early_and_says_why(swept: Swept) -> None:
    """Its run is interrupted, with the reason in its report, and the sweep's table has it too."""
    assert [one["state"] for one in swept.report["trials"]] == ["completed", "pruned"]
    report = report_of(swept.house, "s-2")
    why = swept.report["trials"][1]["cause"]
    assert report["status"] == "interrupted"
    assert "is worse than the median of the trials before it" in why
    assert f"training interrupted: pruned: {why}" in [alert["what"] for alert in report["alerts"]]
    assert not (swept.folder("s-2") / "model").exists()


def test_the_best_trial_is_published(swept: Swept) -> None:
    """It alone, verified, and its own report says so."""
    assert swept.report["best"]["name"] == "s-1"
    assert swept.report["published"]["verified"] is True
    assert report_of(swept.house, "s-1")["published"]["verified"] is True
    assert [name for name in ("s-1", "s-2") if (swept.folder(name) / "published.json").is_file()] == ["s-1"]


def test_prefect_shows_the_sweep_and_its_trials(swept: Swept) -> None:
    """The killed flow run has crashed; the other has its trials as tasks, and is completed."""
    former, states = task_states(swept.house, "s")
    assert former["flow run"] == "Crashed"
    assert former["s-1"] == "Completed"
    assert states["flow run"] == "Completed"
    assert {"resolve sweep", "report sweep", "s-2"} <= set(states)


def test_what_a_sweep_leaves_is_in_its_folder(swept: Swept) -> None:
    """Beside its trials' runs only names with a dot; the report as a page and as markdown, and the study."""
    folder = swept.folder(".sweeps", "s")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"report.html", "report.md", "report.json", "sweep.json", "sweep.yaml", trials.STUDY}
    left = {path.name for path in swept.folder().iterdir() if path.name.startswith("s")}
    assert left == {"s-1", "s-2"}


def pooled(place: Deployed, name: str, source: Path, trials: int, steps: int) -> UUID:
    """Start a sweep on the pool."""
    return place.start(
        "sweep/cuda",
        name,
        {"trials": trials, "space": {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}},
        data={"source": str(source), "validation": 12, "test": 8},
        train={"max_steps": steps, "eval_steps": 10, "save_steps": 5},
        evaluate={"samples": 0},
        monitor={"trackio": "off"},
    )


@pytest.fixture(scope="module")
def at_once(place: Deployed, source: Path) -> UUID:
    """Two trials, whose sweep's process is killed while they train, and which is retried when they have ended.

    The trial that is first to save is held until the other one has saved too.
    """
    run = pooled(place, "p", source, trials=2, steps=60)
    names = {"p-1", "p-2"}
    ahead = deployed.until(lambda: next((name for name in names if place.has_saved(name, 5)), None))
    (training,) = processes_of(f"smollm3_ft.training {place.runs_dir / ahead / 'plan.json'}")
    training.suspend()
    place.saved(*(names - {ahead}), 5)
    training.resume()
    for process in processes_of(str(run)):
        process.kill()
    assert place.ended(run).state_name == "Crashed"
    for trial in place.children(run):
        assert place.ended(trial.id).state_name == "Completed"
    place.retry(run)
    assert place.ended(run).state_name == "Completed"
    return run


def test_a_killed_sweep_takes_no_trial_with_it(place: Deployed, at_once: UUID) -> None:
    """Each trial was started once, and trained once, and its sweep notes it when it is retried."""
    found = place.children(at_once)
    assert {(one.name, one.state_name, one.run_count) for one in found} == {
        ("p-1", "Completed", 1),
        ("p-2", "Completed", 1),
    }
    trained = [child for one in found for child in place.children(one.id)]
    assert [(child.state_name, child.run_count) for child in trained] == [("Completed", 1)] * 2
    report = files.read_json(place.runs_dir / ".sweeps" / "p" / "report.json")
    assert [(one["name"], one["state"]) for one in report["trials"]] == [("p-1", "completed"), ("p-2", "completed")]


def test_trials_are_trained_by_all_workers_at_once(place: Deployed, at_once: UUID) -> None:
    """One by each worker, the second before the first has ended."""
    first, second = (child for one in place.children(at_once) for child in place.children(one.id))
    assert {first.labels["prefect.worker.name"], second.labels["prefect.worker.name"]} == {"cuda", "cuda-2"}
    assert first.start_time is not None
    assert second.start_time is not None
    assert first.end_time is not None
    assert second.end_time is not None
    assert max(first.start_time, second.start_time) < min(first.end_time, second.end_time)


def test_trials_at_once_prepare_the_data_once(place: Deployed, at_once: UUID) -> None:
    """Both name the same, which was written before the first of their steps ended, and not again. So is the evaluation
    of the base model."""
    found = place.children(at_once)
    marks = [runs.marks(runs.read(place.runs_dir / one.name)) for one in found]
    flow_runs = {
        "prepare data": (".prepared", found),
        "evaluate base": (".evaluated", [child for one in found for child in place.children(one.id)]),
    }
    for step, (folder, flows) in flow_runs.items():
        (mark,) = {one[step] for one in marks}
        only = FlowRunFilter(id=FlowRunFilterId(any_=[one.id for one in flows]))
        named = TaskRunFilter(name=TaskRunFilterName(any_=[step]))
        ends = [one.end_time for one in place.client.read_task_runs(flow_run_filter=only, task_run_filter=named)]
        assert len(ends) == 2
        written = (place.runs_dir / folder / mark / records.RECORD).stat().st_mtime
        assert all(end is not None and written < end.timestamp() for end in ends)


def test_a_sweep_on_a_pool_is_shown_as_one_here(place: Deployed, at_once: UUID) -> None:
    """Its trials as tasks with their flow runs' states; table and plot as artifacts."""
    shown = place.tasks(at_once)
    assert (shown["p-1"], shown["p-2"]) == (["Completed"], ["Completed"])
    assert {"sweep-trials", "sweep"} <= place.artifacts(at_once)
    assert "<svg" in (place.runs_dir / ".sweeps" / "p" / "report.html").read_text()


def test_a_cancelled_sweep_ends_its_trials(place: Deployed, source: Path) -> None:
    """All are Cancelled, no process of them is left, and a checkpoint is there to go on from."""
    run = pooled(place, "c", source, trials=1, steps=5000)
    place.saved("c-1", 5)
    (trial,) = place.children(run)
    (training,) = place.children(trial.id)
    place.cancel(run)
    assert {place.ended(one).state_name for one in (run, trial.id, training.id)} == {"Cancelled"}
    words = (str(run), str(trial.id), str(training.id), str(place.runs_dir / "c-1"))
    deployed.until(lambda: not processes_of(*words), seconds=60)
    newest, damaged = checkpoints.newest(place.runs_dir / "c-1" / "checkpoints")
    assert newest is not None
    assert damaged == []
