"""`smollm3-ft data SOURCE`: what is found is shown, whatever it is, and nothing else is asked for."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import facts, write_rows

from flows import cli

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
WATCHED = """
import sys
from flows import cli
sys.argv = ["smollm3-ft", "data", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as stop:
    code = stop.code or 0
print("imported:", sorted({"torch", "prefect", "transformers", "datasets"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
Done = subprocess.CompletedProcess[str]
MIXED = [*facts(20), {"question": "One?", "answer": "It is\t1."}, "{cut", {"prompt": "[red]x[/]", "completion": 5}]


@pytest.fixture
def words(tmp_path: Path, tiny: Path) -> Callable[..., list[str]]:
    """What is typed to look at rows or a place, with the built-in model's folder as the model."""

    def work(source: Any, *more: str) -> list[str]:
        place = source if isinstance(source, str) else write_rows(tmp_path / "rows.jsonl", source)
        return [str(place), f"runs_dir={tmp_path / 'runs'}", f"model.name={tiny}", *more]

    return work


@pytest.fixture
def look_apart(words: Any) -> Any:
    """Runs the command in a process that says which heavy packages it imported."""

    def work(*given: Any) -> Done:
        command = [sys.executable, "-c", WATCHED, *words(*given)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return work


@pytest.fixture
def look(words: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process: for what it shows."""
    monkeypatch.chdir(ROOT)

    def work(*given: Any, **variables: str) -> Done:
        for name, value in {"COLUMNS": "80", **variables}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["smollm3-ft", "data", *words(*given)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Done(given, int(stop.value.code or 0), *capsys.readouterr())

    return work


def test_the_ledger_as_json(look_apart: Any) -> None:
    """With --json, stdout is the ledger's object with the head of the quarantine, and nothing else."""
    done = look_apart(MIXED, "--json", "data.max_bad_rows=1.0")
    told = json.loads(done.stdout)
    assert told["schema_version"] == 1
    (source,) = told["sources"]
    assert (source["rows"], source["kept"], source["dropped"]) == (23, 21, {"malformed_json": 1, "not_text": 1})
    assert sum(told["splits"].values()) == 21
    assert [(row["line"], row["reason"]) for row in told["quarantine"]] == [(22, "malformed_json"), (23, "not_text")]
    assert "imported: []" in done.stderr


def test_everything_is_shown(look: Any, tmp_path: Path) -> None:
    """In the terminal: formats and shares, the ledger, lengths, rows, the quarantine, and where the page is."""
    shown = look(MIXED, "data.max_bad_rows=0.5").stdout
    assert "prompt_completion (87 % of rows), question_answer (4 %)" in shown
    assert "1 malformed_json, 1 not_text" in shown
    assert "in the loss" in shown
    assert "⟦It is " in shown
    assert "rows.jsonl:23" in shown
    page = Path(shown.strip().splitlines()[-1].partition("page:")[2].strip())
    assert page.is_relative_to(tmp_path / "runs" / ".prepared")
    assert [path.name for path in page.parent.parent.iterdir()] == [page.parent.name]  # nothing is left of the request
    assert "Rows as they are trained" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("columns", [80, 120])
def test_what_is_shown_fits(look: Any, columns: int) -> None:
    """No line but those that are paths is wider than the terminal, and none has colours where they are not wanted."""
    shown = look(MIXED, "data.max_bad_rows=0.5", COLUMNS=str(columns)).stdout
    assert max(len(line.rstrip()) for line in shown.splitlines() if "/" not in line) <= columns
    assert "\x1b" not in shown


def test_colours_on_a_terminal(look: Any) -> None:
    """With colours the trained tokens are green, and have no brackets."""
    shown = look(facts(20), FORCE_COLOR="1").stdout
    assert "\x1b[32mIt is" in shown
    assert "⟦" not in shown


def test_too_many_bad_rows(look: Any, tmp_path: Path) -> None:
    """Exit code 1, one line with the cause, what to do and where the quarantine is; nothing on stdout."""
    done = look(MIXED, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "2 of 23 rows of" in line
    kept = Path(line.partition("the quarantine is ")[2])
    assert [json.loads(row)["line"] for row in kept.read_text().splitlines()] == [22, 23]


def test_rows_of_which_none_can_be_kept(look: Any) -> None:
    """Where any number of bad rows is allowed, a source that is all bad is told all the same."""
    told = json.loads(look(["{cut", "[1]"], "--json", "data.max_bad_rows=1.0").stdout)
    assert [(source["rows"], source["kept"]) for source in told["sources"]] == [(2, 0)]
    assert told["splits"] == {"train": 0, "validation": 0, "test": 0}
    assert len(told["quarantine"]) == 2
    assert "Quarantine" in look(["{cut", "[1]"], "data.max_bad_rows=1.0").stdout


def test_too_few_rows_to_hold_any_out(look: Any) -> None:
    """A source of one row is shown: it is only looked at."""
    done = look(facts(1), "--json")
    assert json.loads(done.stdout)["splits"] == {"train": 1, "validation": 0, "test": 0}
    assert "none are held out" in done.stderr


def test_formats_that_no_method_trains_on_are_kept(look: Any) -> None:
    """Rows are judged by their format alone: KTO and ranked rows count as kept."""
    kto = [{"prompt": f"Good, {n}?", "completion": "Yes.", "label": True} for n in range(9)]
    ranked = [{"prompt": f"Best, {n}?", "completions": ["This.", "That."]} for n in range(9)]
    (source,) = json.loads(look([*kto, *ranked], "--json").stdout)["sources"]
    assert (source["kept"], source["formats"]) == (18, {"kto": 9, "ranked": 9})


def test_what_is_not_about_data_does_not_matter(look: Any) -> None:
    """Values that a run could not honour yet do not keep anybody from looking at data."""
    words = ("publish.target=hub", "train.adapter=qlora", "monitor.trackio=https://example.org")
    assert look(facts(20), "--json", *words, SMOLLM3_FT_POOL="cuda", TRACKIO_SPACE_ID="a/b").returncode == 0


def test_a_file_may_say_what_the_data_is(look: Any, tmp_path: Path) -> None:
    """The section `data` of a YAML file is as good as words."""
    write_rows(tmp_path / "rows.jsonl", facts(20))
    (tmp_path / "mine.yaml").write_text(
        f"data:\n  source: {tmp_path / 'rows.jsonl'}\n  sample: 5\ntrain:\n  epochs: 2\n"
    )
    (source,) = json.loads(look(str(tmp_path / "mine.yaml"), "--json").stdout)["sources"]
    assert source["dropped"] == {"sampled": 15}


@pytest.mark.parametrize(
    ("source", "more", "code", "said"),
    [
        ("nothing.jsonl", [], 2, "data.source: there is no nothing.jsonl"),
        ([], [], 1, "has no rows"),
        (facts(9), ["data.max_lenght=1"], 2, "did you mean data.max_length?"),
        (facts(9), ["dta.max_length=1"], 2, "dta: there is no such key"),
        (facts(9), ["data.source=other"], 2, "is given twice"),
        (facts(9), ["data.over_length=error", "data.max_length=16"], 1, "rows.jsonl:1 has"),
        ("missing.yaml", [], 2, "missing.yaml: cannot be read"),
        (facts(9), ["--push", ""], 2, "--push: '' is no Hub name; use owner/name"),
        (facts(9), ["--push", "a/b/c"], 2, "--push: 'a/b/c' is no Hub name; use owner/name"),
        (facts(9), ["--push", f"me/hf_{'a' * 34}"], 2, "--push: holds a token or another secret"),
    ],
)
def test_a_mistake_is_one_clear_line(look: Any, source: Any, more: list[str], code: int, said: str) -> None:
    """The exit code says whose it is, and no traceback is shown."""
    done = look(source, *more)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert said in line


def test_a_mistake_imports_nothing_heavy(look_apart: Any) -> None:
    """To say what is wrong, neither torch nor Prefect is imported."""
    done = look_apart(facts(9), "data.max_lenght=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[1:] == ["imported: []"]
