"""A run is begun once, gone on with by its name, and told apart from every other."""

import datetime
import uuid
from pathlib import Path
from typing import Any

import pytest
from conftest import configure, facts, write_rows

from smollm3_ft import experiments, files, locks, plan, runs
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError
from smollm3_ft.runs import Run


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run `a` on a file of rows."""
    return asked(tmp_path, name="a")


def asked(tmp_path: Path, **given: Any) -> Config:
    source = tmp_path / "rows.jsonl"
    if not source.exists():
        write_rows(source, facts(10))
    return configure(data__source=str(source), runs_dir=str(tmp_path / "runs"), **given)


def ended(run: Run, status: str) -> None:
    files.write_json(run.path / "report.json", {"status": status})


def planned(run: Run) -> Run:
    """The run with its early plan, as the step `plan` leaves it."""
    return runs.save(run.model_copy(update={"plan": plan.make(run.config)}))


def test_a_run_has_an_id_and_a_folder(config: Config) -> None:
    """A run that begins gets a UUID and its record."""
    run = runs.begin(config)
    assert str(uuid.UUID(run.run_id)) == run.run_id
    assert runs.read(Path(config.runs_dir) / "a") == run


def test_begun_twice_it_is_the_same_run(config: Config) -> None:
    """The same name with the same configuration goes on."""
    first, second = runs.begin(config), runs.begin(config)
    assert (second.run_id, second.created) == (first.run_id, first.created)


def test_what_is_not_trained_may_differ(tmp_path: Path, config: Config) -> None:
    """A run goes on with other places for metrics and model, and keeps the newer ones."""
    first = runs.begin(config)
    second = runs.begin(asked(tmp_path, name="a", monitor__trackio="off", publish__target="none"))
    assert second.run_id == first.run_id
    assert runs.read(first.path).config.monitor.trackio == "off"


def test_another_configuration_lists_the_keys(tmp_path: Path, config: Config) -> None:
    """The same name with another configuration is refused with every key that differs, and both values."""
    runs.begin(config)
    with pytest.raises(ConfigError) as caught:
        runs.begin(asked(tmp_path, name="a", seed=7, train__max_steps=3, monitor__trackio="off"))
    assert [str(problem).split(";")[0] for problem in caught.value.problems] == [
        "seed: is 7, but run a has 42",
        "train.max_steps: is 3, but run a has none",
    ]


SMALLER = {"train__batch_size": 1, "train__gradient_checkpointing": True}


def test_an_unfinished_run_may_take_smaller_batches(tmp_path: Path, config: Config) -> None:
    """How the sequences of a step are divided may change before a run is finished: it is found without a name too."""
    run = runs.begin(config)
    smaller = asked(tmp_path, name="a", **SMALLER)
    assert runs.to_go_on_with(smaller) == "a"
    again = runs.begin(smaller)
    assert (again.run_id, again.config.train.batch_size) == (run.run_id, 1)


def test_a_finished_run_keeps_its_batches(tmp_path: Path, config: Config) -> None:
    """Nothing of a finished run may differ."""
    ended(runs.begin(config), "completed")
    with pytest.raises(ConfigError, match=r"train\.batch_size: is 1, but run a has 4"):
        runs.begin(asked(tmp_path, name="a", **SMALLER))


def test_a_folder_of_something_else_is_left_alone(config: Config) -> None:
    """A folder that holds no run is not written to."""
    folder = Path(config.runs_dir) / "a"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="holds something that is no run"):
        runs.begin(config)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["code", "lock"])
def test_changed_code_is_refused(config: Config, name: str) -> None:
    """An unfinished run whose code or packages changed is refused, and told how to go on."""
    runs.save(runs.begin(config).model_copy(update={name: "0" * 32}))
    with pytest.raises(ConfigError, match=f"{name} changed since run a began .*--accept-changes"):
        runs.begin(config)


def test_changed_code_can_be_agreed_to(config: Config) -> None:
    """After accept_changes the run goes on, and remembers what was agreed to."""
    run = runs.save(runs.begin(config).model_copy(update={"code": "0" * 32}))
    runs.accept_changes(run.path)
    again = runs.begin(config)
    assert again.run_id == run.run_id
    assert ["code changed" in change["what"] for change in again.accepted] == [True]


def test_nothing_to_agree_to(config: Config) -> None:
    """accept_changes of an unchanged run notes nothing."""
    run = runs.begin(config)
    runs.accept_changes(run.path)
    assert runs.read(run.path) == run


@pytest.mark.parametrize("status", ["completed", "blocked"])
def test_a_finished_run_does_not_mind(config: Config, status: str) -> None:
    """A finished run is only reported again, whatever the code is now."""
    run = runs.save(runs.begin(config).model_copy(update={"code": "0" * 32}))
    ended(run, status)
    assert runs.begin(config).run_id == run.run_id


def test_a_changed_source_is_noticed(tmp_path: Path, config: Config) -> None:
    """A file whose rows changed since the run's plan was made is a change, until it is agreed to."""
    run = planned(runs.begin(config))
    assert runs.changes(run) == {}
    write_rows(tmp_path / "rows.jsonl", facts(11))
    assert list(runs.changes(run)) == ["data.source"]
    with pytest.raises(ConfigError, match=r"data\.source: .*rows\.jsonl changed since run a began"):
        runs.begin(config)
    runs.accept_changes(run.path)
    assert runs.changes(runs.read(run.path)) == {}


def test_a_changed_source_before_the_plan_is_none(tmp_path: Path, config: Config) -> None:
    """Before anything was pinned, nothing can have changed."""
    run = runs.begin(config)
    write_rows(tmp_path / "rows.jsonl", facts(11))
    assert runs.changes(run) == {}


def test_set_aside(config: Config) -> None:
    """Starting over moves the old folder away whole, and the name is free."""
    run = runs.begin(config)
    aside = runs.set_aside(Path(config.runs_dir), "a")
    assert aside is not None
    assert aside.parent == Path(config.runs_dir) / ".old"
    assert runs.read(aside).run_id == run.run_id
    assert runs.begin(config).run_id != run.run_id


def test_set_aside_twice(config: Config) -> None:
    """What was set aside before stays."""
    for _ in range(2):
        runs.begin(config)
        runs.set_aside(Path(config.runs_dir), "a")
    assert len(list((Path(config.runs_dir) / ".old").iterdir())) == 2


def test_nothing_to_set_aside(tmp_path: Path) -> None:
    """Starting over where there is no run is no error."""
    assert runs.set_aside(tmp_path, "a") is None


@pytest.mark.parametrize(
    ("status", "found"), [("failed", True), ("interrupted", True), ("completed", False), ("blocked", False)]
)
def test_which_run_to_go_on_with(tmp_path: Path, config: Config, status: str, found: bool) -> None:
    """Without a name, an unfinished run of the same configuration is gone on with."""
    ended(runs.begin(config), status)
    assert (runs.to_go_on_with(asked(tmp_path)) == "a") is found


def test_a_killed_run_is_gone_on_with(tmp_path: Path, config: Config) -> None:
    """A run that could not write a report was interrupted."""
    run = runs.begin(config)
    assert runs.status(run.path) == "interrupted"
    assert runs.to_go_on_with(asked(tmp_path)) == "a"


def test_the_newest_is_gone_on_with(tmp_path: Path, config: Config) -> None:
    """Of several, the one that began last."""
    for name, created in (("a", "2026-01-03"), ("b", "2026-01-05"), ("c", "2026-01-04")):
        run = runs.begin(config.model_copy(update={"name": name}))
        runs.save(run.model_copy(update={"created": created}))
    assert runs.to_go_on_with(asked(tmp_path)) == "b"


def test_another_configuration_is_not_gone_on_with(tmp_path: Path, config: Config) -> None:
    """A run of other values is another run."""
    runs.begin(config)
    assert runs.to_go_on_with(asked(tmp_path, seed=7)) is None


def test_a_busy_run_is_not_gone_on_with(tmp_path: Path, config: Config) -> None:
    """A run that somebody works on is left to them."""
    runs.begin(config)
    with locks.hold(Path(config.runs_dir), "a"):
        assert runs.to_go_on_with(asked(tmp_path)) is None


def test_new_names_are_free(tmp_path: Path) -> None:
    """Two runs of one second have two names."""
    at = datetime.datetime(2026, 11, 23, 14, 5, 9)
    names = []
    for _ in range(3):
        names.append(runs.new_name(tmp_path, at))
        (tmp_path / names[-1]).mkdir()
    assert names == [f"smollm3_finetune_20261123_140509{number}" for number in ("", "_2", "_3")]


def test_only_runs_are_listed(tmp_path: Path, config: Config) -> None:
    """Folders of something else, and those with a leading dot, are no runs."""
    run = runs.begin(config)
    runs.set_aside(Path(config.runs_dir), "a")
    (Path(config.runs_dir) / "notes").mkdir()
    again = runs.begin(config)
    assert [found.run_id for found in runs.listed(Path(config.runs_dir))] == [again.run_id] != [run.run_id]
    assert runs.listed(tmp_path / "none") == []


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 1}'])
def test_a_damaged_run_is_in_nobodys_way(tmp_path: Path, config: Config, content: str) -> None:
    """A run that cannot be read does not keep others from being found."""
    runs.begin(config)
    other = runs.begin(config.model_copy(update={"name": "b"}))
    (other.path / runs.RECORD).write_text(content)
    assert runs.to_go_on_with(asked(tmp_path)) == "a"


def test_a_folder_of_runs_that_was_moved(tmp_path: Path, config: Config) -> None:
    """Its runs are where they are now: listed there, as what they are, and a finished one is not gone on with."""
    ended(runs.begin(config), "completed")
    moved = Path(config.runs_dir).rename(tmp_path / "elsewhere")
    assert [run.path for run in runs.listed(moved)] == [moved / "a"]
    assert experiments.of_run(moved / "a").status == "completed"
    assert runs.to_go_on_with(config.model_copy(update={"runs_dir": str(moved)})) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_report_is_none(config: Config, content: str) -> None:
    """A run whose report cannot be read was interrupted."""
    run = runs.begin(config)
    (run.path / "report.json").write_text(content)
    assert runs.status(run.path) == "interrupted"


def test_marks(config: Config) -> None:
    """The fingerprints of finished steps are kept one by one."""
    run = runs.begin(config)
    assert runs.marks(run) == {}
    runs.set_mark(run, "prepare data", "x")
    runs.set_mark(run, "evaluate base", "y")
    assert runs.marks(run) == {"prepare data": "x", "evaluate base": "y"}


def test_a_damaged_run_is_named(config: Config) -> None:
    """A record that cannot be read is said, with what to do."""
    run = runs.begin(config)
    (run.path / runs.RECORD).write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json is damaged; start over with --fresh"):
        runs.begin(config)


def test_a_record_holds_no_machine_secret(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run remembers has no variable of the environment."""
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    run = planned(runs.begin(config))
    assert "hf_very_secret" not in (run.path / runs.RECORD).read_text()
