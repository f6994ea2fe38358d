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
