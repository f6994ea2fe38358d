"""A run's model in a folder of its own: whole, and never in the place of something else."""

import errno
import shutil
from pathlib import Path

import pytest
from conftest import MakePlan, facts

from flows import cli
from smollm3_ft import exporting, files, fit, locks, records, runs
from smollm3_ft.errors import ConfigError
from smollm3_ft.runs import Run

MODEL = {"model.safetensors", "config.json", "generation_config.json"}
MODEL |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture
def run(make_plan: MakePlan, tiny: Path, tmp_path: Path) -> Run:
    """A run as training leaves it, with the base model as the trained one, and a card and a variant beside."""
    plan = make_plan(tmp_path / "runs", "a", facts(20))
    folder = Path(plan.folder)
    shutil.copytree(tiny, folder / "model", ignore=shutil.ignore_patterns("record.json"))
    records.write(folder / fit.TRAINED, fit.mark(plan), {"model": "digest"}, folder / "model")
    files.write(folder / "model" / "README.md", "a card")
    files.write(folder / "model" / "int4" / "model.safetensors", b"weights")
    return runs.read(folder)


def export(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["smollm3-ft", "export", *words])
    return cli.guarded(cli.app, args=["export", *words], standalone_mode=False)


def test_the_model_as_it_was_trained(run: Run, tmp_path: Path) -> None:
    """The files that training left, and no others that lie beside them; their bytes are told."""
    size = exporting.export(run, (), tmp_path / "out", print)
    assert {path.name for path in (tmp_path / "out").iterdir()} == MODEL | {"export.json"}
    assert size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    for name in MODEL:
        assert (tmp_path / "out" / name).read_bytes() == (run.path / "model" / name).read_bytes()


def test_an_export_takes_the_place_of_an_export(run: Run, tmp_path: Path) -> None:
    """As a whole: nothing of the former one stays, and nothing half done lies beside it."""
    exporting.export(run, (), tmp_path / "out", print)
    files.write(tmp_path / "out" / "int8" / "model.safetensors", b"of former times")
    exporting.export(run, (), tmp_path / "out", print)
    assert not (tmp_path / "out" / "int8").exists()
    assert not list(tmp_path.glob(".partial*"))


def test_a_run_that_is_worked_on_is_left_alone(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, and who it is; what another export of it has on the way stays."""
    files.write(tmp_path / f".partial-out-{run.run_id}" / "config.json", "on the way")
    with locks.hold(run.path.parent, run.name):
        assert export("a", str(tmp_path / "out"), f"runs_dir={run.path.parent}", monkeypatch=monkeypatch) == 1
    assert "a is being worked on by process" in capsys.readouterr().err
    assert (tmp_path / f".partial-out-{run.run_id}" / "config.json").is_file()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_run_that_may_only_be_read_is_exported(
    run: Run, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's, or one on a disk that takes nothing: its lock cannot be had, and is not needed."""

    def refuse(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(locks, "hold", refuse)
    assert exporting.export(run, (), tmp_path / "out", print) > 0


def test_what_is_no_export_stays(run: Run, tmp_path: Path) -> None:
    """A folder with something else in it, and a file, are refused; an empty folder is taken."""
    (tmp_path / "mine").mkdir()
    exporting.export(run, (), tmp_path / "mine", print)
    (tmp_path / "mine" / "export.json").unlink()
    for place in (tmp_path / "mine", tmp_path / "mine" / "config.json"):
        with pytest.raises(ConfigError, match="holds something that is no export"):
            exporting.export(run, (), place, print)


def test_a_place_that_cannot_be_is_a_line(run: Run, tmp_path: Path) -> None:
    """As below a file."""
    files.write(tmp_path / "file", "")
    with pytest.raises(ConfigError, match=r"folder: .*/file/out cannot be written \(Not a directory\); name"):
        exporting.export(run, (), tmp_path / "file" / "out", print)


def test_a_model_that_is_not_as_trained_is_not_exported(run: Run, tmp_path: Path) -> None:
    """In a line, with the command that goes on with the run."""
    (run.path / "model" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"a is not trained, or its model.*go on with it first: .*flows\.finetune"):
        exporting.export(run, (), tmp_path / "out", print)


def test_the_command_says_how_to_load_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default it goes into the run's folder; what its gate has against it is said, and is in nobody's way."""
    files.write_json(run.path / "evaluation.json", {"gate": {"state": "failed", "why": "it is worse"}})
    assert export("a", f"runs_dir={run.path.parent}", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert f'from_pretrained("{run.path}/export")' in said
    assert "kept it from being published: it is worse" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a", "train.epochs=3"), "train.epochs: is no key of an export"),
        (("a", "publish.quantize=[int3]"), "publish.quantize"),
        (("nobody",), "there is no run in"),
        (("a", "b", "c"), "3 words name no run and folder"),
    ],
)
def test_a_users_mistake_is_a_line(
    run: Run,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2."""
    assert export(*words, f"runs_dir={run.path.parent}", monkeypatch=monkeypatch) == 2
    assert said in capsys.readouterr().err
