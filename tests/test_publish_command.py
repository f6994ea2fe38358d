"""`smollm3-ft publish`: what it refuses, and what it only reports, before any server is started."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MakePlan
from trained import finished

from flows import cli
from smollm3_ft import files, fit, locks, publishing, runs
from smollm3_ft.runs import Run

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture(scope="module")
def run(make_plan: MakePlan, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is trained, evaluated, and was published in its folder."""
    plan = finished(make_plan, tiny, tmp_path_factory.mktemp("published") / "runs")
    found = runs.read(Path(plan.folder))
    publishing.verified(found, publishing.publish(found, plan))
    return found


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Run) -> Command:
    """Runs the command in this process."""

    def work(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["smollm3-ft", "publish", f"runs_dir={run.path.parent}", *words])
        try:
            code = cli.guarded(cli.app)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(words, code, *capsys.readouterr())

    return work


@pytest.fixture
def blocked(run: Run) -> Iterator[Run]:
    """The run, as if its gate had been against it and it were not published."""
    kept = {path: path.read_bytes() for path in (run.path / "evaluation.json", run.path / publishing.PUBLISHED)}
    evaluation = files.read_json(run.path / "evaluation.json")
    files.write_json(run.path / "evaluation.json", {**evaluation, "gate": {"state": "failed", "why": "it is worse"}})
    (run.path / publishing.PUBLISHED).unlink()
    yield run
    for path, content in kept.items():
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a", f"publish.repo=me/hf_{'a' * 34}"), "publish.repo: holds a token or another secret"),
        (("a", "--despite-gate", f"hf_{'a' * 34}"), "--despite-gate: holds a token or another secret"),
        (("a", "train.epochs=2"), "train.epochs: is no key of publishing; what was trained stays"),
        (("a", "publish.targt=hub"), "publish.targt: there is no such key; did you mean publish.target?"),
        (("a", "publish.target=bub"), "publish.target: should be"),
        (("b",), "run: there is no run in"),
        (("a", "b"), "run: 2 runs are named; name one"),
        (("a", "--despite-gate", " "), "--despite-gate: has no reason; say why"),
        (("a", "--despite-gate", "why not"), "--despite-gate: the gate is not against a; leave it out"),
    ],
)
def test_a_mistake_is_one_clear_line(publish: Command, run: Run, words: tuple[str, ...], said: str) -> None:
    """Exit code 2."""
    done = publish(*words)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    assert said in done.stderr


def test_what_is_published_is_only_reported(publish: Command, run: Run) -> None:
    """Exit code 0, and where it is; nothing is done."""
    before = (run.path / publishing.PUBLISHED).read_bytes()
    done = publish("a")
    assert (done.returncode, done.stdout.split()) == (0, ["published", "and", "verified", str(run.path / "model")])
    assert (run.path / publishing.PUBLISHED).read_bytes() == before


@pytest.mark.usefixtures("blocked")
def test_what_the_gate_is_against_needs_a_reason(publish: Command) -> None:
    """Exit code 3, why, and what to do."""
    done = publish("a")
    assert done.returncode == 3
    assert "not published: it is worse" in done.stderr
    assert "--despite-gate" in done.stderr


def test_owners_are_permitted_by_this_machine(publish: Command, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the words say."""
    monkeypatch.setenv("SMOLLM3_FT_PUBLISH_OWNERS", "acme")
    done = publish("a", "publish.target=hub", "publish.repo=other/model")
    assert done.returncode == 2
    assert "what belongs to other may not be published here; allowed are the owners acme" in done.stderr


def test_a_run_that_somebody_works_on_is_left_alone(publish: Command, run: Run) -> None:
    """Exit code 1, and who it is."""
    with locks.hold(run.path.parent, run.name):
        done = publish("a", "publish.target=hub")
    assert done.returncode == 1
    assert "a is being worked on by" in done.stderr


@pytest.mark.parametrize(
    ("target", "repo", "adapter", "same"),
    [
        ("local", None, "merge", True),
        ("hub", None, "merge", True),
        ("hub", "me/a", "merge", True),
        ("hub", "me/b", "merge", False),
        ("local", None, "keep", False),
    ],
)
def test_what_is_asked_for_now_is_what_counts(
    run: Run, target: str, repo: str | None, adapter: str, same: bool
) -> None:
    """A record of the Hub is one of this folder too; other content, or another place, is published anew."""
    record = {**files.read_json(run.path / publishing.PUBLISHED), "target": "hub", "repo": "me/a"}
    asked = run.config.publish.model_copy(update={"target": target, "repo": repo, "adapter": adapter})
    now = run.model_copy(update={"config": run.config.model_copy(update={"publish": asked})})
    assert publishing.is_as_asked(record, now) is same


@pytest.mark.parametrize(
    ("space", "tried", "asked", "is_finished"),
    [
        (None, False, None, True),
        (None, False, "me/chat", False),
        ("me/chat", False, "me/chat", False),
        ("me/chat", True, "me/chat", True),
        ("me/chat", True, "chat", True),
        ("me/chat", True, "me/other", False),
    ],
)
def test_a_run_is_finished_with_its_space(
    run: Run, space: str | None, tried: bool, asked: str | None, is_finished: bool
) -> None:
    """What is verified goes on with the Space that is asked for, where that was not made or not tried."""
    record = {**files.read_json(run.path / publishing.PUBLISHED), "target": "hub", "repo": "me/a"}
    record |= {"demo_space": {"space": space, "tried": tried}} if space else {}
    publish = run.config.publish.model_copy(update={"target": "hub", "demo_space": asked})
    now = run.model_copy(update={"config": run.config.model_copy(update={"publish": publish})})
    assert publishing.is_finished(record, now) is is_finished


def test_a_reason_is_in_the_record_and_on_the_card(blocked: Run) -> None:
    """Of a model that its gate was against; with another reason it is published anew."""
    record = publishing.publish(blocked, fit.read(blocked.path / "plan.json"), "a colleague needs it")
    assert record["despite_gate"] == "a colleague needs it"
    assert [publishing.states(record, one) for one in ("a colleague needs it", None, "two do")] == [True, True, False]
    assert "a colleague needs it" in (blocked.path / "model" / "README.md").read_text()
