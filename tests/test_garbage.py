"""What may go is what no run needs: found by what the runs themselves say, and deleted only on request."""

from pathlib import Path

import pytest
from conftest import configure, facts, write_rows
from typer.testing import CliRunner

from flows import cli
from smollm3_ft import files, garbage, locks, models, plan, pruning, records, runs
from smollm3_ft.runs import Run


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def begun(runs_dir: Path, name: str, status: str = "completed", prepared: str = "p1") -> Run:
    """A run with its plan and marks, and what those name."""
    source = runs_dir.parent / "rows.jsonl"
    if not source.exists():
        write_rows(source, facts(10))
    run = runs.begin(configure(name=name, data__source=str(source), runs_dir=str(runs_dir)))
    run = runs.save(run.model_copy(update={"plan": plan.make(run.config)}))
    for step, place, mark in (("prepare data", ".prepared", prepared), ("evaluate base", ".evaluated", "e1")):
        made(runs_dir / place / mark)
        runs.set_mark(run, step, mark)
    files.write(run.path / "checkpoints" / "checkpoint-4" / "model.safetensors", b"0" * 1000)
    files.write_json(run.path / "report.json", {"status": status})
    return run


def made(folder: Path) -> Path:
    """An output with its record, as a step leaves it."""
    files.write(folder / "content", b"0" * 500)
    records.write(folder / records.RECORD, folder.name, {}, folder)
    return folder


def names(runs_dir: Path) -> set[str]:
    return {str(one.path.relative_to(runs_dir)) for one in garbage.found(runs_dir)}


def test_what_a_run_names_is_needed(runs_dir: Path) -> None:
    """Its prepared data, its evaluation and its model stay; the like that no run names may go."""
    begun(runs_dir, "a", "failed")
    for other in (".prepared/p2", ".evaluated/e2", ".models/tiny-000000000000"):
        made(runs_dir / other)
    assert names(runs_dir) == {".prepared/p2", ".evaluated/e2", ".models/tiny-000000000000"}


def test_checkpoints_are_needed_until_the_run_is_finished(runs_dir: Path) -> None:
    """Those of a completed, a blocked and a pruned run may go, those of an interrupted one are gone on from."""
    for name, status in (("a", "completed"), ("b", "blocked"), ("c", "interrupted"), ("d", "interrupted")):
        begun(runs_dir, name, status)
    pruning.prune(runs_dir / "d", "worse than others")
    assert names(runs_dir) == {"a/checkpoints", "b/checkpoints", "d/checkpoints"}


def test_what_was_left_or_set_aside_may_go(runs_dir: Path) -> None:
    """Outputs that were never finished, quarantines of failed preparations, and runs behind --fresh."""
    run = begun(runs_dir, "a")
    aside = runs.set_aside(runs_dir, run.name)
    assert aside is not None
    for left in (".prepared/.failed-p3", ".prepared/.partial-p4", ".evaluated/.partial-e5-123"):
        made(runs_dir / left)
    found = names(runs_dir)
    assert found >= {
        f".old/{aside.name}",
        ".prepared/.failed-p3",
        ".prepared/.partial-p4",
        ".evaluated/.partial-e5-123",
    }
    assert {".prepared/p1", ".evaluated/e1"} <= found  # only the set-aside run named them


def test_what_the_living_hold_is_no_garbage(runs_dir: Path) -> None:
    """Checkpoints of a run that is worked on, and an output that is being made."""
    begun(runs_dir, "a")
    made(runs_dir / ".prepared" / ".partial-p4")
    with locks.hold(runs_dir, "a"), locks.hold(runs_dir, ".prepared-p4"):
        assert names(runs_dir) == set()
    assert names(runs_dir) == {"a/checkpoints", ".prepared/.partial-p4"}


@pytest.mark.parametrize("lock", ["a", ".training-a", ".a-on-device"])
def test_a_run_lives_by_any_of_its_locks(runs_dir: Path, lock: str) -> None:
    """Its flow run, the processes of its launcher and a worker on another machine each hold one."""
    begun(runs_dir, "a")
    (found,) = garbage.found(runs_dir)
    with locks.hold(runs_dir, lock):
        assert garbage.found(runs_dir) == []
        assert not garbage.delete(runs_dir, found)
    assert garbage.delete(runs_dir, found)


def test_a_run_that_has_just_begun_may_take_any_of_it(runs_dir: Path) -> None:
    """While a living run has not said which prepared data it takes, none of it is garbage."""
    begun(runs_dir, "a", "failed")
    made(runs_dir / ".prepared" / "p2")
    runs.begin(configure(name="b", data__source=str(runs_dir.parent / "rows.jsonl"), runs_dir=str(runs_dir)))
    with locks.hold(runs_dir, "b"):
        assert names(runs_dir) == set()
    assert names(runs_dir) == {".prepared/p2"}


def test_what_a_damaged_run_names_is_needed(runs_dir: Path) -> None:
    """A record that cannot be read does not make its data garbage."""
    run = begun(runs_dir, "a", "failed")
    (run.path / runs.RECORD).write_text("{")
    assert ".prepared/p1" not in names(runs_dir)


def test_what_was_taken_meanwhile_is_not_deleted(runs_dir: Path) -> None:
    """Found as garbage, and named by a run before it is deleted: it stays."""
    begun(runs_dir, "a", "failed")
    made(runs_dir / ".prepared" / "p2")
    (found,) = garbage.found(runs_dir)
    begun(runs_dir, "b", "failed", prepared="p2")
    assert garbage.delete(runs_dir, found) is False
    assert records.read(found.path / records.RECORD, "p2", found.path) is not None


def test_a_deletion_cut_short_leaves_nothing_whole(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is moved aside first; what is left of it is garbage again."""
    run = begun(runs_dir, "a")
    (found,) = garbage.found(runs_dir)
    monkeypatch.setattr(garbage.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        garbage.delete(runs_dir, found)
    assert not (run.path / "checkpoints").exists()
    assert names(runs_dir) == {"a/.gone-checkpoints"}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_command_deletes_only_with_yes(runs_dir: Path) -> None:
    """Without, it lists with sizes; with, what was listed is gone and the run is as it was."""
    run = begun(runs_dir, "a")
    files.write(runs_dir / ".prepared" / "p2" / "train.arrow", b"0" * 3 * 2**20)
    told = CliRunner().invoke(cli.app, ["gc", str(runs_dir)])
    assert f"smollm3-ft gc --yes {runs_dir}" in told.output
    assert "3.0 MiB" in told.output
    assert (runs_dir / ".prepared" / "p2").is_dir()
    assert CliRunner().invoke(cli.app, ["gc", "--yes", str(runs_dir)]).exit_code == 0
    assert not (runs_dir / ".prepared" / "p2").exists()
    assert not (run.path / "checkpoints").exists()
    assert (runs_dir / ".prepared" / "p1").is_dir()
    assert runs.read(run.path) == run
    assert models.pin(run.config.model, runs_dir).folder == (run.plan.model.folder if run.plan else None)
    assert garbage.found(runs_dir) == []
