"""Every run closes with a report, however far it came."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePlan, configure, facts

from smollm3_ft import experiments, files, journal, report, runs
from smollm3_ft.config import Config
from smollm3_ft.journal import Journal
from smollm3_ft.publishing import REPORTED
from smollm3_ft.report import Failure, Step
from smollm3_ft.runs import Run

STEPS = [Step("plan", "Completed", 1.25, cached=False), Step("prepare data", "Cached", 0.0, cached=True)]
FAILURE = Failure("train", "the disk is full & <b>more</b>", "make room")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runs.begin(configure(name="a", runs_dir=str(tmp_path / "my runs")))


def evaluated(run: Run) -> None:
    """What an evaluation leaves."""
    value = {"value": 1.5, "low": 1.25, "high": 1.75}
    sides = {side: {"loss": value} for side in ("base", "tuned", "difference")}
    samples = [{"prompt": "<p>", "reference": "r", "base": "b", "tuned": "t"}]
    gate = {"state": "none", "metric": None}
    files.write_json(run.path / "evaluation.json", {**sides, "rows": 3, "samples": samples, "gate": gate})


def test_a_run_that_came_nowhere(run: Run) -> None:
    """A run that failed at its first step has a report of every key, and says the cause."""
    written = report.write(run, "failed", STEPS[:1], FAILURE)
    kept = json.loads((run.path / "report.json").read_text())
    assert kept == {"schema_version": 1, **written}
    assert (kept["status"], kept["name"], kept["failure"]["cause"]) == ("failed", "a", FAILURE.cause)
    assert kept["train"]["steps"] is None
    assert kept["evaluation"] == {"base": None, "tuned": None, "difference": None, "gate": "none", "why": None}
    wanted = {"status", "name", "steps", "data", "train", "evaluation", "published", "actual", "links", "next_steps"}
    assert wanted <= set(kept)


def test_all_three_are_written(run: Run) -> None:
    """The report is there for programs, for reading, and for a browser."""
    report.write(run, "failed", STEPS, FAILURE)
    assert "**train** failed: the disk is full & <b>more</b>" in (run.path / "report.md").read_text()
    page = (run.path / "report.html").read_text()
    assert "the disk is full &amp; &lt;b&gt;more&lt;/b&gt;" in page
    assert "prepare data" in page


def test_the_failure_can_be_read_again(run: Run) -> None:
    """What ended a run is told from its report, also where none was written."""
    assert report.read_failure(run.path) is None
    report.write(run, "failed", STEPS, FAILURE)
    assert report.read_failure(run.path) == FAILURE


def test_steps_are_listed(run: Run) -> None:
    """Each step has its state, its time, and whether its result was reused."""
    assert report.write(run, "completed", STEPS)["steps"] == [
        {"name": "plan", "state": "Completed", "seconds": 1.25, "cached": False},
        {"name": "prepare data", "state": "Cached", "seconds": 0.0, "cached": True},
    ]


def test_the_evaluation_is_in_it(run: Run) -> None:
    """Metrics stand with their intervals, and what rows say is escaped."""
    evaluated(run)
    assert report.write(run, "completed", STEPS)["evaluation"]["tuned"]["loss"]["value"] == 1.5
    page = (run.path / "report.html").read_text()
    assert "1.500 [1.250, 1.750]" in page
    assert "&lt;p&gt;" in page
    assert "<p>" + "</p>" not in page


@pytest.mark.parametrize(("losses", "drawn"), [([2.0, 1.0], 1), ([], 0), ([float("nan"), 1.0], 1), ([float("nan")], 0)])
def test_the_curve(run: Run, losses: list[float], drawn: int) -> None:
    """The loss is drawn from the journal; what is no number is left out."""
    metrics = Journal(run.path / "metrics.jsonl", run.run_id)
    for step, loss in enumerate(losses, start=1):
        metrics.write("train", {"loss": loss}, step)
    metrics.close()
    assert len(journal.curves(run.path / "metrics.jsonl", "loss")) == drawn
    report.write(run, "completed", STEPS)
    assert (run.path / "report.html").read_text().count("<polyline") == drawn


def test_a_run_that_did_not_end_says_how_far_it_came(run: Run) -> None:
    """Steps, tokens, memory and loss, as its journal has them; and which rows were dropped."""
    with Journal(run.path / "metrics.jsonl", run.run_id) as metrics:
        for step, memory in ((10, 2**30), (20, 2**29)):
            values = {"loss": 3.0 - step / 10, "tokens": 100 * step, "supervised_tokens": step, "memory_bytes": memory}
            metrics.write("train", {**values, "epoch": 0.5, "tokens_per_second": 9.0}, step)
    files.write(run.path / "data" / "quarantine.jsonl", "{}\n")
    written = report.write(run, "interrupted", STEPS)
    train = written["train"]
    assert (train["steps"], train["tokens"], train["peak_memory_bytes"]) == (20, 2000, 2**30)
    assert (train["final_loss"], train["resumed_from"]) == (1.0, None)
    assert "Trained 20 steps so far, 2,000 tokens" in (run.path / "report.md").read_text()
    assert '<a href="data/quarantine.jsonl">' in (run.path / "report.html").read_text()


def test_a_resumed_run_that_did_not_end_says_where_it_went_on(run: Run) -> None:
    """From the step of the checkpoint, as one that ended does."""
    with Journal(run.path / "metrics.jsonl", run.run_id) as metrics:
        for what, step in (("started", 0), ("resumed", 10), ("resumed", 20), ("interrupted", 25)):
            metrics.write("event", {"what": what}, step)
    assert report.write(run, "interrupted", STEPS)["train"]["resumed_from"] == 20


def test_the_time_of_a_resumed_training_is_that_of_all_its_parts(run: Run, make_plan: MakePlan) -> None:
    """Beside what was planned stands how long it trained in all, also where that is reused."""
    plan = make_plan(run.path.parent, "b", facts(40))
    resumed, times = runs.read(Path(plan.folder)), iter([100.0, 160.0, 9000.0, 9020.0])
    with Journal(resumed.path / "metrics.jsonl", resumed.run_id) as metrics, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.time, "time", lambda: next(times))
        for what in ("started", "checkpoint", "resumed", "finished"):
            metrics.write("event", {"what": what}, 1)
    for last in (Step("train", "Completed", 25.0, cached=False), Step("train", "Cached", 0.0, cached=True)):
        assert report.collect(resumed, "completed", [last], None)["actual"]["seconds"]["actual"] == 80.0
    assert experiments.of_run(resumed.path).train["seconds"] == 80.0


def test_standard_tasks_stand_beside_each_other(run: Run) -> None:
    """Each metric of each task, with its standard error where there is one."""
    evaluated(run)
    sides = {"base": {"arc": {"acc": 0.25, "acc_stderr": 0.125}}, "tuned": {"arc": {"acc": 0.5, "ppl": 7.25}}}
    evaluation = files.read_json(run.path / "evaluation.json")
    files.write_json(run.path / "evaluation.json", {**evaluation, "harness": sides})
    report.write(run, "completed", STEPS)
    text = (run.path / "report.md").read_text()
    assert "| arc | acc | 0.250 ± 0.125 | 0.5 |\n| arc | ppl | – | 7.25 |" in text
    assert "<td>arc<td>acc<td>0.250 ± 0.125<td>0.5" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_how_to_go_on(run: Run, status: Any) -> None:
    """An unfinished run says the command that goes on with it, which can be pasted."""
    import shlex

    first = report.write(run, status, STEPS, FAILURE)["next_steps"][0]
    words = shlex.split(first.partition(": ")[2])
    assert words[-2:] == ["flows.finetune", f"{run.path}/config.yaml"]


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_the_pages_are_opened_from_any_folder(run: Run, status: Any) -> None:
    """By the program itself: a Makefile is in the repository alone."""
    said = report.next_steps(run, status)
    opened = next(line.partition(": ")[2] for line in said if line.startswith("See every step in the browser"))
    assert opened.endswith(f"smollm3-ft ui runs_dir='{run.path.parent}'")


def test_a_finished_run_says_where_it_went_since(run: Run) -> None:
    """Published after its report was written: the report has that and its page, and the steps as they were."""
    before = report.write(run, "completed", STEPS)
    assert before["published"]["target"] is None
    assert report.write(run, "failed", [], FAILURE) == files.read_json(run.path / "report.json")
    record = {"target": "hub", "repo": "me/model", "commit": "c0ffee", "verified": True}
    files.write_json(run.path / "published.json", record)
    after = report.write(run, "completed", [])
    assert after["published"] == dict.fromkeys(REPORTED) | record
    assert after["links"]["model page"].endswith("/me/model")
    assert (after["steps"], after["status"]) == (before["steps"], "completed")
    assert files.read_json(run.path / "report.json") == after
    assert "me/model" in (run.path / "report.html").read_text()


def test_a_blocked_run_says_why(run: Run) -> None:
    """The report of a run that the gate kept back says so and why, for programs and for people."""
    evaluated(run)
    evaluation = files.read_json(run.path / "evaluation.json")
    files.write_json(run.path / "evaluation.json", {**evaluation, "gate": {"state": "failed", "why": "it is worse"}})
    written = report.write(run, "blocked", STEPS)
    assert (written["evaluation"]["gate"], written["evaluation"]["why"]) == ("failed", "it is worse")
    assert written["published"]["target"] == "none"
    assert "Published: none" not in (run.path / "report.md").read_text()
    for name in ("report.md", "report.html"):
        text = (run.path / name).read_text()
        assert "Kept from being published:" in text
        assert "it is worse" in text


def test_where_it_was_published_is_a_paragraph(run: Run) -> None:
    """A blank line is behind it: the table of the steps would belong to it otherwise."""
    files.write_json(run.path / "published.json", {"target": "local", "verified": True, "answers_compared": True})
    report.write(run, "completed", STEPS)
    text = (run.path / "report.md").read_text()
    assert "Published: local, verified: it loads and answers as trained.\n\n| step |" in text


def test_parts_answers_leaks_and_warnings_are_shown(run: Run) -> None:
    """Figures by source, how answers ended, what leaked, and a model that does not end its answers."""
    evaluated(run)
    value = {"value": 2.5, "low": 2.25, "high": 2.75}
    part = {"rows": 7, **{side: {"loss": value} for side in ("base", "tuned", "difference")}}
    said = {"answers": 9, "tokens": {"mean": 3.25, "longest": 8}, "judged": 8, "stopped": 0.25}
    more = {"by": {"source": {"a.jsonl": part}}, "answers": {"base": said, "tuned": said}, "warnings": ["it goes on"]}
    evaluation = files.read_json(run.path / "evaluation.json")
    files.write_json(run.path / "evaluation.json", {**evaluation, **more})
    leak = {"row": "train.jsonl:3", "held_out": "test.jsonl:5", "split": "test", "alike": 0.93}
    leaks = {"exact": 0, "near": 1, "excluded": 0, "first": [leak]}
    files.write_json(run.path / "data" / "ledger.json", {"sources": [], "leaks": leaks})
    written = report.write(run, "completed", STEPS)
    assert written["alerts"] == [{"step": None, "what": "it goes on"}]
    page = (run.path / "report.html").read_text()
    for words in ("By source", "2.500 [2.250, 2.750]", "25 % of 8", "train.jsonl:3 and test.jsonl:5", "it goes on"):
        assert words in page
    text = (run.path / "report.md").read_text()
    assert "25 % ended by itself" in text
    assert "1 nearly do; 0 of them were left out" in text


def test_a_name_breaks_no_table(run: Run) -> None:
    """A bar in a file's name is no end of a cell."""
    source = {"source": "/rows/a|b.jsonl", "format": "text", "rows": 1, "kept": 1, "dropped": {}}
    files.write_json(run.path / "data" / "ledger.json", {"sources": [source]})
    report.write(run, "failed", STEPS)
    assert "| a\\|b.jsonl | text |" in (run.path / "report.md").read_text()


def test_only_what_is_there_is_linked(run: Run) -> None:
    """Links are to what a run left."""
    assert report.links(run) == {}
    (run.path / "model").mkdir()
    assert report.links(run) == {"model": str(run.path / "model")}


def test_what_is_on_the_hub_is_linked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, demo, dataset and Trackio have pages, at the Hub that this machine uses; an own server is its own page."""
    monkeypatch.setenv("HF_ENDPOINT", "http://hub:1")
    published = {"repo": "me/model", "verified": True, "demo_space": {"space": "me/chat", "tried": True}}
    files.write_json(run.path / "published.json", published)
    places = {"monitor": {"trackio": "me/trackio", "dataset": "me/metrics"}}
    on_hub = run.model_copy(update={"config": Config.model_validate(places)})
    assert report.links(on_hub) == {
        "model page": "http://hub:1/me/model",
        "demo": "http://hub:1/spaces/me/chat",
        "dataset": "http://hub:1/datasets/me/metrics",
        "trackio": "http://hub:1/spaces/me/trackio",
    }
    assert "- demo: <http://hub:1/spaces/me/chat>" in report.render(
        "report.md", on_hub, report.collect(on_hub, "completed", [], None)
    )
    own = run.model_copy(update={"config": Config.model_validate({"monitor": {"trackio": "https://trackio:7860"}})})
    assert report.links(own)["trackio"] == "https://trackio:7860"


@pytest.mark.parametrize("there", [True, False])
def test_the_data_page_is_linked(run: Run, there: bool) -> None:
    """The report links the data page, where there is one: a run may have failed for its data."""
    source = {"source": "a", "format": None, "rows": 1, "kept": 0, "dropped": {"empty": 1}}
    files.write_json(run.path / "data" / "ledger.json", {"sources": [source]})
    if there:
        files.write(run.path / "data" / "report.html", "page")
    report.write(run, "completed", STEPS)
    assert ('<a href="data/report.html">' in (run.path / "report.html").read_text()) is there


def test_accepted_changes_are_said(run: Run) -> None:
    """A run that went on although something changed says so."""
    runs.save(run.model_copy(update={"code": "0" * 32}))
    runs.accept_changes(run.path)
    written = report.write(runs.read(run.path), "completed", STEPS)
    assert "code changed since run a began" in written["accepted_changes"][0]
    assert "Went on although something changed" in (run.path / "report.md").read_text()


def test_damaged_lines_of_a_journal_are_said(run: Run) -> None:
    """A run whose journal has one is reported all the same, and says so."""
    files.write(run.path / "metrics.jsonl", "no line of a journal\n")
    what = "metrics.jsonl has lines that are damaged, and passed over: 1"
    assert report.write(run, "failed", STEPS)["alerts"] == [{"step": None, "what": what}]


def test_alerts_are_said_in_the_order_of_their_time(run: Run) -> None:
    """What training and the process beside it found alarming stands in the report."""
    for name, step, what in (("metrics", 7, "the loss jumped"), ("host", None, "training stalled")):
        journal = Journal(run.path / f"{name}.jsonl", run.run_id)
        journal.write("alert", {"what": what}, step)
        journal.close()
    written = report.write(run, "failed", STEPS)
    assert written["alerts"] == [{"step": 7, "what": "the loss jumped"}, {"step": None, "what": "training stalled"}]
    assert "- Look at step 7: the loss jumped" in (run.path / "report.md").read_text()
    assert "<li>training stalled" in (run.path / "report.html").read_text()
