"""What runs take from each other: prepared data and the base model's evaluation, made once, and only as they were."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePlan, configure, facts, write_rows

from smollm3_ft import data, files, identity, locks, models, records, runs, sources
from smollm3_ft.fit import TrainingPlan
from tasks import evaluating


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    return make_plan(tmp_path_factory.mktemp("reuse") / "runs", "a", facts(60))


def mark(plan: TrainingPlan, **given: Any) -> str:
    return evaluating._evaluation_mark(plan.model_copy(update=given), plan.model.digest)


def test_another_learning_rate_is_the_same_evaluation(plan: TrainingPlan) -> None:
    """What the base model scores does not depend on how another is trained."""
    train = plan.config.train.model_copy(update={"learning_rate": 1e-3, "epochs": 3})
    assert mark(plan, config=plan.config.model_copy(update={"train": train})) == mark(plan)


def test_what_an_evaluation_depends_on(plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, data (which tell of template and tokenizer), precision, how many are answered, device, and code."""
    config = plan.config
    section = {
        "model": config.model.model_copy(update={"dtype": "bfloat16"}),
        "evaluate": config.evaluate.model_copy(update={"samples": 3}),
    }
    marks = [
        mark(plan),
        evaluating._evaluation_mark(plan, "another model"),
        mark(plan, prepared=plan.prepared.model_copy(update={"fingerprint": "other data"})),
        *(mark(plan, config=config.model_copy(update={name: value})) for name, value in section.items()),
        mark(plan, device_name="another device"),
    ]
    monkeypatch.setattr(identity, "code", lambda *modules: f"other code of {modules}")
    marks.append(mark(plan))
    assert len(set(marks)) == len(marks)


def test_an_unfinished_run_is_evaluated_by_the_code_it_goes_on_with(plan: TrainingPlan) -> None:
    """One of a former version has scores of another make; a finished one keeps the mark that it has."""
    run = runs.read(Path(plan.folder))
    runs.set_mark(run, "evaluate base", "of a former version")
    marks = [evaluating._marks_of(run, "base", plan, plan.model.digest, done)[0] for done in (True, False)]
    assert marks == ["of a former version", mark(plan)]


def test_data_of_a_former_version_names_no_origins(plan: TrainingPlan, tmp_path: Path) -> None:
    """The models are compared all the same, but not source by source."""
    files.write_json(tmp_path / "scores.json", {"rows": [], "answers": []})
    scored = evaluating.Evaluated(folder=str(tmp_path), fingerprint="any")
    former = plan.model_copy(update={"prepared": plan.prepared.model_copy(update={"folder": str(tmp_path)})})
    assert evaluating._compared(former, scored, scored, None)["by"] == {}


@pytest.mark.parametrize("damage", ["altered", "gone"])
def test_a_damaged_evaluation_is_no_hit(plan: TrainingPlan, damage: str) -> None:
    """It is looked at file by file, whatever Prefect has stored."""
    run = runs.read(Path(plan.folder))
    folder = run.path.parent / ".evaluated" / damage
    files.write_json(folder / "scores.json", {"rows": []})
    records.write(folder / records.RECORD, damage, {}, folder)
    assert evaluating.found(run, damage, None, done=False) is not None
    if damage == "gone":
        (folder / "scores.json").unlink()
    else:
        files.write_json(folder / "scores.json", {"rows": [1]})
    assert evaluating.found(run, damage, None, done=False) is None


def test_two_at_once_prepare_once(tmp_path: Path, tiny: Path) -> None:
    """Who comes while another prepares the same waits for it, and takes what it made."""
    settings = configure(data__source=str(write_rows(tmp_path / "rows.jsonl", facts(20)))).data
    chat_digest = models.pin(configure(model__name=str(tiny)).model, tmp_path).chat_digest
    folders = (tmp_path, tmp_path / "beside")
    asked = data.request(sources.locate(settings), settings, 1, "sft", tiny, chat_digest, *folders)
    with ThreadPoolExecutor(1) as pool:
        with locks.hold(tmp_path, f".prepared-{asked.fingerprint}"):
            second = pool.submit(data.prepare, asked)
            made = data._prepare(asked, 1, fast=True)
            before = (asked.folder / records.RECORD).stat()
        assert second.result() == made
    after = (asked.folder / records.RECORD).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_two_at_once_evaluate_the_base_once(plan: TrainingPlan) -> None:
    """Who comes while another evaluates the same model waits for it, and starts no process."""
    runs_dir = Path(plan.config.runs_dir)
    folder = runs_dir / ".evaluated" / "mark"
    with ThreadPoolExecutor(1) as pool:
        with locks.hold(runs_dir, ".evaluated-mark"):
            second = pool.submit(evaluating._evaluate, plan, "no such model, were it evaluated", "mark")
            files.write_json(folder / "scores.json", {"rows": []})
            records.write(folder / records.RECORD, "mark", {}, folder)
        assert second.result().folder == str(folder)
