"""`smollm3-ft init`: what it asks has defaults, and what it writes is a configuration that the other commands take."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import configure, facts, write_rows
from hub import hub

from flows import cli
from smollm3_ft import doctor, initial, layers, sources
from smollm3_ft.devices import Device
from smollm3_ft.predictions import Work

Init = Callable[..., tuple[int, str]]
PAIRS = [{"prompt": "One?", "chosen": f"It is {number}.", "rejected": "No."} for number in range(30)]


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """Runs the command in a folder of its own, with lines for answers. Returns its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    for name in layers.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)

    def work(*words: str, answers: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["smollm3-ft", "init", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    return work


@pytest.mark.process
def test_the_defaults_are_a_configuration_that_can_be_planned(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the file that lies there: what of it is kept is shown, what it takes too, and the next command."""
    write_rows(tmp_path / "mine.jsonl", [*facts(60), "{cut"])
    code, said = init("--yes")
    assert code == 0, said
    assert "mine.jsonl" in said
    assert "1 malformed_json" in said
    assert "python -m flows.finetune finetune.yaml" in said
    text = (tmp_path / "finetune.yaml").read_text(encoding="utf-8")
    assert "source: mine.jsonl  # prompt_completion (98 % of rows): 60 of 61 rows are kept" in text
    assert layers.read_file(tmp_path / "finetune.yaml")["train"] == {"adapter": "none", "max_steps": 250}
    monkeypatch.setattr(sys, "argv", ["smollm3-ft", "plan", "finetune.yaml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0


@pytest.mark.process
def test_answers_are_lines_of_stdin(init: Init, tmp_path: Path) -> None:
    """A wrong one is told, and asked for again; where they end, the defaults stand."""
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    code, said = init("own.yaml", answers="1\n9\nnowhere.jsonl\n1\nlora\n")
    assert code == 0, said
    assert "answer: 9 is none of the numbers; give 1 to 2, or a name" in said
    assert "there is no nowhere.jsonl" in said
    written = layers.read_file(tmp_path / "own.yaml")
    assert written["data"]["source"] == "pairs.jsonl"
    assert written["train"] == {"adapter": "lora", "method": "dpo", "learning_rate": "auto"}
    assert written["publish"] == {"target": "local"}


@pytest.mark.process
def test_a_file_whose_columns_are_not_known_yet(init: Init, tmp_path: Path) -> None:
    """It is told, and the configuration is written all the same, with the steps that a small file needs; `hub` alone is
    the target, and no repository of that name."""
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    code, said = init(answers="1\n1\n1\nhub\n")
    assert (code, "a run would stop here" in said) == (0, True), said
    written = layers.read_file(tmp_path / "finetune.yaml")
    assert written["train"] == {"adapter": "none", "max_steps": 250}
    assert written["publish"] == {"target": "hub"}


@pytest.mark.process
def test_whose_token_it_is_and_that_one_is_missing(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is asked, and again where an answer needs one."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    code, said = init(answers="1\n1\n1\nme/model\n")
    assert code == 0, said
    assert "Hub token: none" in said
    assert "The Hub wants a token that may write" in said


@pytest.mark.process
def test_where_the_token_may_not_write_is_told_at_once(tmp_path: Path) -> None:
    """By the Hub, when it is named: not after the training."""
    command = [sys.executable, "-c", "from flows import cli; cli.main()", "init"]
    answers = "builtin:tiny\nbuiltin:demo\nnone\nother/model\ntester/model\n"
    with hub() as there:
        environment = {**there.environment(tmp_path / "home"), "COLUMNS": "200"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, input=answers, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "HF_TOKEN is of tester" in done.stdout
    assert "tester is not in other, the owner of other/model" in done.stdout
    assert "we may make tester/model" in done.stdout
    assert layers.read_file(tmp_path / "finetune.yaml")["publish"] == {"target": "hub", "repo": "tester/model"}


def test_no_file_is_overwritten_unasked(init: Init, tmp_path: Path) -> None:
    """Neither by `--yes` nor where nobody answers."""
    (tmp_path / "finetune.yaml").write_text("mine")
    for words in (("--yes",), ()):
        code, said = init(*words)
        assert (code, "finetune.yaml: is there already; name another" in said) == (2, True)
    assert (tmp_path / "finetune.yaml").read_text() == "mine"


def test_files_that_look_like_rows_are_found(tmp_path: Path) -> None:
    """In the folder and in its `data`; other files of a project are not rows."""
    for name in ("b.jsonl", "a.csv.gz", "data/c.parquet", "requirements.txt", "package.json", ".hidden.jsonl"):
        write_rows(tmp_path / name, ["x"])
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "list.json").write_text('\n[{"text": "x"}]')
    names = [str(path.relative_to(tmp_path)) for path in initial.data_files(tmp_path)]
    assert names == ["a.csv.gz", "b.jsonl", "list.json", "data/c.parquet"]


@pytest.mark.parametrize(("rows", "method"), [(PAIRS, "dpo"), (["{cut", *facts(3)], "sft"), ([], "sft")])
def test_the_method_follows_the_rows(tmp_path: Path, rows: list[object], method: str) -> None:
    """Pairs of a better and a worse answer are for dpo."""
    place = write_rows(tmp_path / "rows.jsonl", rows)
    assert initial.method(sources.locate(configure(data__source=str(place)).data)) == method


def test_what_each_choice_takes() -> None:
    """On a GPU of 24 GiB all weights of SmolLM3-3B do not fit, and an adapter does, with its time."""
    config = configure(recipe="sft_full", data__max_length=2048)
    work, device = Work(1000, 2_000_000, 2048), Device("cuda", "NVIDIA L4", 24 * 2**30, 5e13)
    full, lora, _ = initial.costs(config, work, doctor.SMOLLM3, device)
    assert full.why_not == "more than there is here"
    assert lora.memory < 24 * 2**30
    assert lora.seconds is not None
    assert not lora.why_not


@pytest.mark.parametrize(("sequences", "steps"), [(5, 250), (240, 250), (1000, None)])
def test_a_small_file_is_shown_often_enough(sequences: int, steps: int | None) -> None:
    """To the built-in model, which begins with nothing; a large one is, by its recipe's passes alone."""
    assert initial.steps(configure(), Work(sequences, 200 * sequences, 256)) == steps


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Whatever a name has in it; comments say what each key is about."""
    awkward = {"source": "my data: #1 'x'.jsonl", "config": "null", "split": "2024_01"}
    values = {"recipe": "demo", "model": {"name": "builtin:tiny"}, "data": awkward, "train": {"adapter": "none"}}
    config = configure()
    text = initial.written(values, {"data.source": "60 rows"}, config, "finetune.yaml")
    path = tmp_path / "finetune.yaml"
    path.write_text(text, encoding="utf-8")
    assert yaml.safe_load(text) == layers.read_file(path) == values
    assert "  # max_length: 256  # Longest row, in tokens" in text
