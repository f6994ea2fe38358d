"""`smollm3-ft chat RUN`: what a run trained answers, in the terminal and as a page."""

import io
import itertools
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import configure
from tuned import ANSWER, QUESTION, ask, learn

from flows import cli
from smollm3_ft import chatapp, runs, unneeded

Talk = Callable[..., int]


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that holds the run `a`, which has learned one answer."""
    runs_dir = tmp_path_factory.mktemp("runs")
    learn(tiny, runs.begin(configure(name="a", runs_dir=str(runs_dir))).path / "model")
    return runs_dir


@pytest.fixture(scope="module")
def chat(model: Path) -> chatapp.Chat:
    return chatapp.load(str(model / "a" / "model"), name="a")


@pytest.fixture
def talk(model: Path, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Runs the command with these words and this input. Returns its exit code."""

    def work(*words: str, typed: str = "") -> int:
        for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
            monkeypatch.setenv(name, "")
        monkeypatch.setattr(unneeded, "leave_out", list)  # other tests of this process may need it
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        monkeypatch.setattr(sys, "argv", ["smollm3-ft", "chat", *words, f"runs_dir={model}"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return work


def test_each_line_is_answered(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    """Piped lines are questions; the answers, and nothing else, are stdout."""
    assert talk("a", typed=f"{QUESTION}\n\n") == 0
    assert capsys.readouterr() == (f"{ANSWER}\n", "")


@pytest.mark.process
def test_the_page_answers(model: Path) -> None:
    """With --web the same model answers at the address that is printed, which is of this machine alone."""
    program = "from flows.cli import main; main()"
    words = [sys.executable, "-c", program, "chat", "a", "--web", f"runs_dir={model}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        address = serving.stdout.readline().strip()
        answer = ask(address)
        serving.send_signal(signal.SIGINT)
        assert serving.wait(timeout=60) == 0
    assert address.startswith("http://127.0.0.1:")
    assert answer == [ANSWER]


def test_an_answer_grows_and_ends(chat: chatapp.Chat) -> None:
    """It comes in pieces, each with what came before, and stops at the token that ends a turn."""
    grown = [one.answer for one in chatapp.said(chat, [{"role": "user", "content": QUESTION}], thinking=False)]
    assert grown[-1] == ANSWER
    assert all(after.startswith(before) for before, after in itertools.pairwise(grown))


def test_what_fails_while_it_answers_is_raised(chat: chatapp.Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for an answer is told, and does not wait for ever."""

    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(chatapp.said(chat, [{"role": "user", "content": QUESTION}], thinking=False))


def test_threads_that_wait_take_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other work goes on, an answer took twenty times as long."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    runpy.run_path(str(chatapp.__file__), run_name="app")
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_a_conversation_that_is_too_long(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, and the next question begins a new one."""
    assert talk("a", typed=f"{'many words ' * 2000}\n{QUESTION}\n") == 0
    told = capsys.readouterr()
    assert told.out == f"{ANSWER}\n"
    assert "longer than the model can read" in told.err


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Paris", "", "Paris"),
        ("<think>\nWell, Fr", "Well, Fr", ""),
        ("<think>\nWell.\n</think>\n\nParis", "Well.", "Paris"),
        ("<think>\n\n</think>\nParis", "", "Paris"),
        ("Write <think> to think", "", "Write <think> to think"),
    ],
)
def test_the_thought_is_apart_from_the_answer(text: str, thought: str, answer: str) -> None:
    """Also while it is still being thought."""
    assert chatapp.parts(text) == (thought, answer)


def test_a_run_without_a_model(talk: Talk, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line says so, with the command that goes on with it."""
    runs.begin(configure(name="b", runs_dir=str(model)))
    assert talk("b") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run: b has no model yet; go on with it: ")


@pytest.mark.parametrize(("name", "content"), [("config.json", b"{"), ("model.safetensors", b"x" * 99)])
def test_a_model_that_is_damaged(talk: Talk, model: Path, name: str, content: bytes, capsys: Any) -> None:
    """A line says so, with the command that makes it again."""
    run = runs.begin(configure(name="c", runs_dir=str(model)))
    shutil.copytree(model / "a" / "model", run.path / "model", dirs_exist_ok=True)
    (run.path / "model" / name).write_bytes(content)
    assert talk("c") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run: the model of c cannot be loaded (")
    assert "; the same run makes it again: " in line
