"""What is published of a run that is there, and what is not: without a server."""

from pathlib import Path

import pytest
from conftest import MakePlan, configure, facts

from flows import publish
from smollm3_ft import files, runs
from smollm3_ft.errors import ConfigError


def test_a_run_that_is_not_trained_is_not_published(make_plan: MakePlan, tmp_path: Path) -> None:
    """One line: what it lacks, and the command that goes on with it."""
    run = runs.read(Path(make_plan(tmp_path / "runs", "begun", facts(60)).folder))
    with pytest.raises(ConfigError, match=r"begun is not trained.*go on with it first: .*flows\.finetune"):
        publish._made(run, None)


@pytest.mark.parametrize(
    ("gate", "target", "said"),
    [("none", "none", "publish.target: is none in run run"), ("failed", "local", "the gate kept run .*: it is worse")],
)
def test_what_may_not_be_published(tmp_path: Path, gate: str, target: str, said: str) -> None:
    """A run with no place to go to, and one that its gate stopped, however far its report has come."""
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path), publish__target=target))
    files.write_json(run.path / "evaluation.json", {"gate": {"state": gate, "why": "it is worse"}})
    with pytest.raises(ConfigError, match=said):
        publish._made(run, None)


def test_an_interrupted_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its report tells the truth, with the steps that were done before; it is raised on."""
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path)))
    before = {"name": "train", "state": "Completed", "seconds": 1.0, "cached": False}
    files.write_json(run.path / "report.json", {"status": "failed", "steps": [before]})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "_made", lambda *_: ())
    monkeypatch.setattr(publish, "close_former", lambda _: None)
    monkeypatch.setattr(publish, "publish_and_verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish._publish(run, None)
    report = files.read_json(run.path / "report.json")
    assert (report["status"], report["steps"]) == ("interrupted", [before])
