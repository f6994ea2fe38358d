"""The command line: what is wrong is said in a line, with the right exit code, before anything heavy is imported."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from children import watched
from conftest import configure

from flows import cli
from smollm3_ft import locks, reproduce, resolve, runs
from smollm3_ft.reproduce import Wanted
from smollm3_ft.runs import Origin

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process: for what it says."""
    monkeypatch.chdir(ROOT)

    def work(*words: str, **variables: str) -> Done:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["finetune", *words])
        try:
            code = cli.finetune()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(words, code, *capsys.readouterr())

    return work


@pytest.fixture
def runs_dir(tmp_path: Path) -> str:
    return f"runs_dir={tmp_path / 'runs'}"


def test_an_unknown_key_is_answered_with_the_nearest_one(runs_dir: str) -> None:
    """Exit code 2, the key meant is named, and nothing heavy was imported to find out."""
    done = watched("flows.finetune", "train.learnig_rate=1", runs_dir)
    assert done.returncode == 2
    assert "train.learning_rate" in done.stderr
    assert "imported: []" in done.stdout
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    """`--help` names the options and imports neither torch nor Prefect."""
    done = watched("flows.finetune", "--help")
    assert done.returncode == 0
    assert "--accept-changes" in done.stdout
    assert "imported: []" in done.stdout


def test_plan_imports_nothing_heavy_and_spends_nothing(runs_dir: str, tmp_path: Path) -> None:
    """`--plan` for the demo shows its steps, and begins no run."""
    done = watched("flows.finetune", "--plan", runs_dir)
    assert done.returncode == 0
    assert "steps" in done.stdout
    assert "imported: []" in done.stdout
    assert [path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")] == []


def test_plan_says_which_keys_came_from_the_environment(finetune: Command, runs_dir: str) -> None:
    """A variable that people know from other tools is named beside the key it gave."""
    done = finetune("--plan", runs_dir, LEARNING_RATE="1e-4")
    assert "train.learning_rate (LEARNING_RATE)" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.source=nothing.jsonl"], "there is no nothing.jsonl"),
        (["model.name=./nothing"], "there is no ./nothing"),
        (["name=../x"], "name: may hold letters"),
        (["dmo"], "did you mean demo?"),
        (["demo", "train.method=dpo", "train.loss=apo_zer"], "(nearest: apo_zero), not 'apo_zer'"),
        (["runs_dir=/dev/null/runs"], "cannot be written to"),
        (["missing.yaml"], "missing.yaml: cannot be read"),
        (["demo", "demo"], "neither a recipe, a file, nor key=value"),
    ],
)
def test_a_mistake_is_one_clear_line(finetune: Command, words: list[str], said: str, runs_dir: str) -> None:
    """Exit code 2, one line on stderr, no traceback."""
    done = finetune(*words, *([] if any(w.startswith("runs_dir") for w in words) else [runs_dir]))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_file_that_is_not_yaml_is_named_with_its_line(finetune: Command, tmp_path: Path, runs_dir: str) -> None:
    """The line is where reading stopped."""
    path = tmp_path / "mine.yaml"
    path.write_text("train:\n  epochs: [1,\n")
    done = finetune(str(path), runs_dir)
    assert done.returncode == 2
    assert f"{path}:3: is not YAML" in done.stderr


def test_empty_data_is_named(finetune: Command, tmp_path: Path, runs_dir: str) -> None:
    """A file without rows fails at the step that reads it, with one line."""
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    done = finetune("--plan", f"data.source={path}", runs_dir)
    assert done.returncode == 2
    assert f"data.source: {path} has no rows" in done.stderr


def test_the_same_name_with_another_configuration_lists_the_keys(finetune: Command, tmp_path: Path) -> None:
    """Exit code 2, and the key that differs with both values."""
    words = {"name": "mine", "runs_dir": str(tmp_path)}
    runs.begin(resolve.resolve(words, {}).config)
    done = finetune("name=mine", f"runs_dir={tmp_path}", "train.epochs=2")
    assert done.returncode == 2
    assert "train.epochs: is 2.0, but run mine has " in done.stderr


def test_a_run_that_another_process_works_on_is_left_alone(tmp_path: Path) -> None:
    """Exit code 1, naming the owner."""
    with locks.hold(tmp_path, "mine"):
        done = watched("flows.finetune", "name=mine", f"runs_dir={tmp_path}")
    assert done.returncode == 1
    assert f"process {os.getpid()}" in done.stderr


def test_fresh_sets_the_old_run_aside(tmp_path: Path) -> None:
    """`--fresh` moves the folder and deletes nothing; a server that is not there then stops the new run, named."""
    run = runs.begin(resolve.resolve({"name": "mine", "runs_dir": str(tmp_path)}, {}).config)
    nowhere = "http://127.0.0.1:9/api"
    done = watched("flows.finetune", "name=mine", f"runs_dir={tmp_path}", "--fresh", PREFECT_API_URL=nowhere)
    assert done.returncode == 1
    assert done.stderr.startswith(f"the Prefect server that PREFECT_API_URL names does not answer ({nowhere})")
    aside = [runs.read(path).run_id for path in (tmp_path / ".old").iterdir()]
    assert aside == [run.run_id]


def test_fresh_with_a_mistake_leaves_the_run_where_it_is(finetune: Command, tmp_path: Path) -> None:
    """What is wrong is said before anything is moved."""
    run = runs.begin(resolve.resolve({"name": "mine", "runs_dir": str(tmp_path)}, {}).config)
    done = finetune("name=mine", f"runs_dir={tmp_path}", "data.source=nothing.jsonl", "--fresh")
    assert done.returncode == 2
    assert runs.read(tmp_path / "mine").run_id == run.run_id


def test_a_recipes_configuration_is_not_asked_of_another_source(
    finetune: Command, runs_dir: str, tmp_path: Path
) -> None:
    """`data.config` of a recipe belongs to the recipe's dataset; one's own rows plan without it."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    words = ("sft_lora", f"data.source={tmp_path / 'rows.jsonl'}", "model.name=builtin:tiny", "data.max_length=256")
    done = finetune("--plan", runs_dir, *words)
    assert done.returncode == 0, done.stderr


def test_a_value_from_the_environment_is_named_by_its_variable(finetune: Command, runs_dir: str) -> None:
    """Nobody typed the key."""
    done = finetune("--plan", runs_dir, BATCH_SIZE="abc")
    assert "train.batch_size (from BATCH_SIZE): " in done.stderr


def test_a_machine_may_say_what_is_read(finetune: Command, tmp_path: Path, runs_dir: str) -> None:
    """With SMOLLM3_FT_READ_ROOTS, a source elsewhere is refused, also through `..`; the built-in ones are not."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for place in (tmp_path / "rows.jsonl", f"{allowed}/../rows.jsonl"):
        done = finetune("--plan", runs_dir, f"data.source={place}", SMOLLM3_FT_READ_ROOTS=str(allowed))
        assert done.returncode == 2
        assert "may not be read here" in done.stderr
    assert finetune("--plan", runs_dir, SMOLLM3_FT_READ_ROOTS=str(allowed)).returncode == 0


def test_a_run_is_not_replaced_by_the_one_that_is_compared_with_it(
    finetune: Command, tmp_path: Path, runs_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --fresh, what would start it over is told."""
    run = runs.begin(configure(name="first", runs_dir=str(tmp_path / "runs")))
    origin = Origin(name="first", place=run.folder, revisions={}, values={}, expected={})
    values = {"name": "first", "runs_dir": str(tmp_path / "runs")}
    monkeypatch.setattr(reproduce, "find", lambda *_: Wanted(values, origin, "first"))
    for words, remedy in (((), "give another name, or none"), (("--fresh",), f"{run.path}/config.yaml --fresh")):
        done = finetune("--from", "first", "name=first", runs_dir, *words)
        assert (done.returncode, remedy in done.stderr) == (2, True), done
    assert run.path.is_dir()
