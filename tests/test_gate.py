"""The gate lets through what is better by its interval, and keeps back what is worse or not known."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakePlan, configure, facts

from smollm3_ft import files, fit, gate, plan, publishing
from smollm3_ft.comparison import compare
from smollm3_ft.config import Gate
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan

Scores = dict[str, Any]


def scores(shift: float = 0.0, noise: float = 0.0) -> Scores:
    """60 rows whose losses vary much, shifted by so many nats a token, each by some noise more."""
    random = np.random.default_rng(5)
    losses = random.uniform(1, 4, 60) + shift + noise * random.standard_normal(60)
    return {"rows": [{"loss": 10 * loss, "tokens": 10, "correct": 5} for loss in losses.tolist()], "answers": []}


def verdict(base: Scores, tuned: Scores, than: Scores | None = None, **given: Any) -> dict[str, Any]:
    compared = compare(base, tuned, samples=0, seed=1)
    return gate.judge(Gate(**given), compared, tuned, ("other", than) if than else None, seed=1, beta=None)


@pytest.mark.parametrize(
    ("tuned", "asked", "state"),
    [
        (scores(-0.5), 0.0, "passed"),
        (scores(-0.5), 0.499, "passed"),
        (scores(-0.5), 0.501, "failed"),
        (scores(-0.1, noise=2.0), 0.0, "failed"),  # better on average, and not surely
        (scores(0.2), 0.0, "failed"),
        (scores(0.2), -0.3, "passed"),  # a loss of so much was allowed
        (scores(), 0.0, "passed"),  # the same model: no worse, as was asked
    ],
)
def test_the_lower_end_decides(tuned: Scores, asked: float, state: str) -> None:
    """The gate passes when the lower end of the paired interval reaches what is asked for."""
    told = verdict(scores(), tuned, min_improvement=asked)
    assert told["state"] == state
    assert (told["difference"]["low"] >= asked) is (state == "passed")
    assert f"{asked:g}" in told["why"]


@pytest.mark.parametrize(("shift", "noise", "state"), [(-0.1, 0, "failed"), (0, 0, "passed"), (0, 0.1, "passed")])
def test_worse_than_another_run(shift: float, noise: float, state: str) -> None:
    """A run whose interval lies below the other's is kept back, however much better than the base it is."""
    told = verdict(scores(), scores(-1.0), scores(-1.0 + shift, noise))
    assert told["state"] == state
    assert told["not_worse_than"]["run"] == "other"
    assert ("surely worse" in told["why"]) is (state == "failed")


def test_what_is_not_known_does_not_pass() -> None:
    """A metric that no row could be measured by, and a loss that is no number, keep a model back."""
    assert "could not be measured" in verdict(scores(), scores(-1), metric="exact_match")["why"]
    assert verdict(scores(), scores(-1), metric="exact_match")["state"] == "failed"
    assert verdict(scores(), scores(math.nan))["state"] == "failed"


def test_without_a_gate() -> None:
    """Nobody asked for anything: nothing is kept back, and nothing has passed."""
    assert gate.judge(None, {"difference": {}}, scores(), None, 1, None) == {"state": "none", "metric": None}


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"evaluate__gate": {"metric": "reward_margin"}}, "evaluate.gate.metric"),
        ({"evaluate__gate": {"metric": "general_loss"}}, "evaluate.gate.metric"),
        ({"evaluate__gate": {}, "data__test": "none"}, "evaluate.gate"),
        ({"evaluate__gate": {"metric": "rouge"}}, "evaluate.gate.metric"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(given: dict[str, Any], key: str) -> None:
    """A gate on something that the run will not have is a mistake in the configuration."""
    with pytest.raises(ConfigError) as caught:
        configure(**given)
    assert caught.value.problems[0].where == key


def trained(made: TrainingPlan, published: str | None = None, verified: bool = True) -> None:
    """What a finished training leaves, and a publication at a time."""
    folder = Path(made.folder)
    shutil.copytree(made.model.folder, folder / "model")
    files.write_json(folder / fit.TRAINED, {"values": {"model": f"digest of {made.name}"}})
    if published:
        record = {"target": "local", "verified": verified, "time": published, "files": {}}
        files.write_json(folder / publishing.PUBLISHED, record)


@pytest.fixture(scope="module")
def runs_dir(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `old` and `new`, published one after the other; `later` was not verified, `dateless` has no time."""
    place = tmp_path_factory.mktemp("gate") / "runs"
    given = {"data__test": "none", "data__validation": "none"}
    trained(make_plan(place, "new", facts(3), **given), "2026-02-02T00:00:00+00:00")
    trained(make_plan(place, "old", facts(3), **given), "2026-01-01T00:00:00+00:00")
    trained(make_plan(place, "later", facts(3), **given), "2026-03-03T00:00:00+00:00", verified=False)
    trained(make_plan(place, "dateless", facts(3), **given), "2026-04-04T00:00:00+00:00")
    record = files.read_json(place / "dateless" / publishing.PUBLISHED)
    files.write_json(place / "dateless" / publishing.PUBLISHED, {**record, "time": None})
    make_plan(place, "untrained", facts(3), **given)
    return place


def other(runs_dir: Path, than: str, model: Path, name: str = "mine") -> str | None:
    config = configure(name=name, runs_dir=str(runs_dir), evaluate__gate={"not_worse_than": than})
    found = gate.other(config, model)
    return found.name if found else None


@pytest.fixture(scope="module")
def another(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes other words around a conversation."""
    folder = tmp_path_factory.mktemp("another") / "model"
    shutil.copytree(tiny, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|>the "))
    return folder


def test_the_last_published_run(runs_dir: Path, tiny: Path, another: Path) -> None:
    """It is the newest whose publication was verified, of the same tokenizer; a run is not compared with itself."""
    assert other(runs_dir, "last_published", tiny) == "new"
    assert other(runs_dir, "last_published", tiny, name="new") == "old"
    assert other(runs_dir, "last_published", another) is None


def test_a_named_run(runs_dir: Path, tiny: Path, another: Path) -> None:
    """A run that is named need not be published, and must be trained, with the same tokenizer."""
    assert other(runs_dir, "later", tiny) == "later"
    for name, model, words in (
        ("untrained", tiny, "untrained is no trained run"),
        ("missing", tiny, "missing is no trained run"),
        ("old", another, "another tokenizer"),
    ):
        with pytest.raises(ConfigError, match=words):
            other(runs_dir, name, model)


def test_a_model_that_was_saved_again_has_the_same_tokens(runs_dir: Path, tiny: Path, tmp_path: Path) -> None:
    """A training's files are not those that it began with, byte for byte, and what they make of a row is the same."""
    saved = tmp_path / "saved"
    shutil.copytree(tiny, saved)
    text = (saved / "tokenizer.json").read_text()
    (saved / "tokenizer.json").write_text(json.dumps(json.loads(text), indent=1))
    assert (saved / "tokenizer.json").read_text() != text
    assert other(runs_dir, "old", saved) == "old"


def test_a_run_that_is_not_there_is_said_by_the_plan(tmp_path: Path) -> None:
    """Before anything is spent."""
    with pytest.raises(ConfigError, match=r"evaluate\.gate\.not_worse_than"):
        plan.make(configure(runs_dir=str(tmp_path), evaluate__gate={"not_worse_than": "missing"}))


def test_why_a_run_is_blocked(tmp_path: Path) -> None:
    """A failed gate is read from the evaluation; nothing else blocks."""
    assert gate.blocked(tmp_path) is None
    for state, why in (("failed", "it is worse"), ("passed", None), ("none", None)):
        files.write_json(tmp_path / "evaluation.json", {"gate": {"state": state, "why": "it is worse"}})
        assert gate.blocked(tmp_path) == why
