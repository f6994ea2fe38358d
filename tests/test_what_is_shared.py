"""What leaves this machine with a run's metrics: no folder of it, no text of anybody's, no word of a failure."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import configure, problems

from smollm3_ft import experimentfiles, experiments, files, report, runs, sidebyside
from smollm3_ft.monitoring import trackio_rows
from smollm3_ft.runs import Run

SECRET = "the secret words"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on a server's Trackio that failed, with a system prompt, own prompts and rows of this machine."""
    rows = tmp_path / "private" / "rows.jsonl"
    rows.parent.mkdir()
    rows.write_text("{}")
    told: dict[str, Any] = {
        "name": "a",
        "runs_dir": str(tmp_path / "runs"),
        "data__source": str(rows),
        "data__system_prompt": f"/no_think {SECRET}",
        "evaluate__prompts": (SECRET,),
        "monitor__trackio": "http://127.0.0.1:9",
    }
    found = runs.begin(configure(**told))
    files.write_json(found.path / "data" / "ledger.json", {"sources": [{"source": str(rows), "rows": 1, "kept": 1}]})
    files.write(found.path / "report.md", f"# a: failed\n\nit said {SECRET}\n\n- model: {found.path / 'model'}\n")
    files.write_json(found.path / "report.json", {"status": "failed", "failure": {"cause": SECRET}})
    return found


def test_a_tracker_elsewhere_is_told_no_texts_and_no_folders(run: Run) -> None:
    """Neither in the configuration nor in what is attached to the run."""
    said = json.dumps(trackio_rows.configuration(run)) + str(trackio_rows.attachments(run))
    assert "rows.jsonl" in said
    assert SECRET not in said
    assert str(run.path.parent.parent) not in said


def test_the_report_of_a_run_that_went_well_is_attached_without_its_folders(run: Run) -> None:
    """Its links are told as they lie below the folder of runs."""
    files.write_json(run.path / "report.json", {"status": "completed", "failure": None})
    attached = trackio_rows.attachments(run)["report.md"].decode()
    assert "- model: a/model" in attached


def test_what_a_report_says_to_do_and_what_changed_names_no_folder(run: Run) -> None:
    """Not the commands that name the folder of runs, nor a source that changed while the run stood still."""
    rows = run.config.data.source
    (run.path / "data" / "ledger.json").unlink()
    changed = f"{rows} changed since run a began"
    told = run.model_copy(update={"accepted": [{"code": "c", "lock": "l", "what": changed}]})
    report.write(told, "completed", [])
    attached = trackio_rows.attachments(told)["report.md"].decode()
    assert "runs_dir=runs" in attached
    assert "rows.jsonl changed since" in attached
    assert "/bin/" not in attached  # of this machine's programs
    assert str(run.path.parent.parent) not in attached


def test_a_run_of_another_version_can_be_delivered(run: Run) -> None:
    """Its plan cannot be read any more: later runs, which deliver what it left, must not fail of that."""
    files.write(run.path / "plan.json", '{"schema_version": 0}')
    assert trackio_rows.configuration(run)["name"] == "a"


def test_a_tracker_on_this_machine_has_everything(run: Run) -> None:
    """There, what a run was told is its user's own."""
    told = {"monitor__trackio": "local", "data__system_prompt": SECRET}
    here = runs.begin(configure(name="here", runs_dir=str(run.path.parent), **told))
    assert trackio_rows.configuration(here)["data.system_prompt"] == SECRET


def test_a_text_that_begins_with_a_slash_is_no_folder(run: Run) -> None:
    """SmolLM3's own switch in a system prompt stays as it is, where texts may be shared."""
    told = experiments.shared(experiments.of_run(run.path), texts=True)
    assert told.config["data.system_prompt"] == f"/no_think {SECRET}"
    assert told.config["data.source"] == "rows.jsonl"
    assert SECRET.encode() in experimentfiles.made(told, [])[f"runs/{experimentfiles.label(told)}/config.json"]


def test_zero_is_a_value(run: Run) -> None:
    """An exact match of nothing before and after is not one that was never measured."""
    nothing = {"exact_match": {"value": 0.0}}
    one = experiments.of_run(run.path).model_copy(update={"evaluation": {"base": nothing, "tuned": nothing}})
    assert sidebyside.change(one, "exact_match") == "0.000 → 0.000"


def test_a_password_in_an_address_is_not_said() -> None:
    """Neither as what is no place, nor as whose it is."""
    said = problems("monitor.trackio=user:s3cret@host/x", environment={"SMOLLM3_FT_PUBLISH_OWNERS": "mine"})
    assert "s3cret" not in " ".join(map(str, said))
