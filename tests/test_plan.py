"""What a run will take is known, near enough, before anything is spent."""

from pathlib import Path
from typing import Any

import pytest
from conftest import MakePlan, configure, facts, write_rows
from pairs_of_the_demo import capitals

from smollm3_ft import plan, processes
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError
from smollm3_ft.plan import Plan


def asked(tmp_path: Path, tiny: Path, rows: list[Any], **given: Any) -> Config:
    source = write_rows(tmp_path / "rows.jsonl", rows)
    settings = {"data__source": str(source), "model__name": str(tiny), "runs_dir": str(tmp_path / "runs"), **given}
    return configure(**settings)


def made(tmp_path: Path, tiny: Path, rows: list[Any], **given: Any) -> Plan:
    return plan.make(asked(tmp_path, tiny, rows, **given))


def test_everything_is_pinned(tmp_path: Path, tiny: Path) -> None:
    """A plan holds the digests of model and rows."""
    first = made(tmp_path, tiny, facts(20))
    assert first.model.digest
    assert [source.splits for source in first.sources] == [{"train": (str(tmp_path / "rows.jsonl"),)}]
    assert made(tmp_path, tiny, facts(21)).sources[0].digest != first.sources[0].digest


@pytest.mark.parametrize("packing", [True, False])
def test_the_estimate_is_near(tmp_path: Path, tiny: Path, make_plan: MakePlan, packing: bool) -> None:
    """Tokens and steps are estimated from a sample to a few percent of what preparation counts."""
    given = {"data__packing": packing, "data__max_length": 512}
    estimate = made(tmp_path, tiny, facts(500), **given).estimate
    exact = make_plan(tmp_path / "exact" / "runs", "a", facts(500), **given)
    assert estimate.rows == 500
    assert estimate.tokens == pytest.approx(exact.prepared.tokens, rel=0.05)
    assert estimate.settings is not None
    assert estimate.settings.steps == pytest.approx(exact.settings.steps, rel=0.1)


def test_bad_rows_do_not_stop_a_plan(tmp_path: Path, tiny: Path) -> None:
    """A row that cannot be used is counted when the data is prepared, not here."""
    assert made(tmp_path, tiny, ["{cut", *facts(20)]).estimate.rows == 21


def test_longer_than_the_model_reads(tmp_path: Path, tiny: Path) -> None:
    """Rows longer than the model's context are refused."""
    with pytest.raises(ConfigError, match=r"data\.max_length: 4096 tokens are more than .* reads \(2048\)"):
        made(tmp_path, tiny, facts(5), data__max_length=4096)


@pytest.mark.parametrize("rows", [[], ["", " "]])
def test_no_rows(tmp_path: Path, tiny: Path, rows: list[str]) -> None:
    """A source without rows is refused at once."""
    with pytest.raises(ConfigError, match=r"data\.source: .*rows\.jsonl has no rows"):
        made(tmp_path, tiny, rows)


def test_runs_dir_must_be_writable(tmp_path: Path, tiny: Path) -> None:
    """A folder of runs that cannot be made is refused by its key."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"runs_dir: .*file/runs cannot be written to"):
        made(tmp_path, tiny, facts(5), runs_dir=str(tmp_path / "file" / "runs"))


def test_a_disk_that_is_too_small(tmp_path: Path, tiny: Path) -> None:
    """A run that needs more disk than is free is refused."""
    with pytest.raises(ConfigError, match=r"runs_dir: .* are needed in .*, .* are free; make room"):
        made(tmp_path, tiny, facts(20), train__save_total_limit=10**9)


def test_a_plan_survives_json(tmp_path: Path, tiny: Path) -> None:
    """A plan can be kept and read again."""
    first = made(tmp_path, tiny, facts(20))
    assert Plan.model_validate_json(first.model_dump_json()) == first


def test_a_plan_as_people_read_it(tmp_path: Path, tiny: Path) -> None:
    """The plan says the model, the source, the steps, and which keys the environment set."""
    lines = dict(plan.facts(made(tmp_path, tiny, facts(20), train__max_steps=7), {"train.epochs": "MAX_EPOCHS"}))
    assert lines["model"] == str(tiny)
    assert lines["steps"].startswith("7 (")
    assert lines["tokens an epoch"].endswith("from a sample")
    assert lines["from the environment"] == "train.epochs (MAX_EPOCHS)"


def test_nothing_is_spent(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning starts no process and leaves nothing but the folder of runs."""
    monkeypatch.setattr(processes, "run", pytest.fail)
    made(tmp_path, tiny, facts(20))
    assert [path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")] == []


def test_pairs_are_estimated_as_pairs(tmp_path: Path, tiny: Path, make_plan: MakePlan) -> None:
    """A preference pair is one sequence of both its documents, in the estimate as in preparation."""
    given = {"train__method": "dpo", "data__validation": "none", "data__test": "none", "train__batch_size": 2}
    estimate = made(tmp_path, tiny, capitals(), **given).estimate
    exact = make_plan(tmp_path / "exact" / "runs", "a", capitals(), **given)
    assert estimate.tokens == pytest.approx(exact.prepared.tokens, rel=0.01)
    assert estimate.settings == exact.settings
    assert estimate.predicted is not None
    assert estimate.predicted.memory_bytes == exact.predicted.memory_bytes
