"""The gate: what must hold before a model is published. It judges `evaluation.json`, where its verdict stands too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from smollm3_ft import chat, comparison, files, fit, publishing
from smollm3_ft.comparison import Scores
from smollm3_ft.config import OF_PAIRS, Config, Gate
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan

PUBLISHED = "last_published"  # in the place of a run's name


class Other(NamedTuple):
    """A run that this one must not be worse than."""

    name: str
    plan: TrainingPlan
    model: str  # the digest of its weights


def problems(config: Config) -> Iterator[Problem]:
    """What a gate asks for that this run cannot measure."""
    gate = config.evaluate.gate
    if gate is None:
        return
    if config.data.test is None and gate.metric != "general_loss":
        yield Problem("evaluate.gate", "needs held-out rows", "give data.test")
    if gate.metric in OF_PAIRS and config.train.method != "dpo":
        yield Problem("evaluate.gate.metric", f"{gate.metric} belongs to train.method=dpo", "use loss")
    if gate.metric == "general_loss" and config.evaluate.general is None:
        yield Problem("evaluate.gate.metric", "general_loss needs general rows", "give evaluate.general")


def other(config: Config, model: Path) -> Other | None:
    """The run that this one must not be worse than: the one named, or the last one published that can be compared.

    `model` is the folder of the base model. None where the gate names none, or nothing was published yet. Raises
    ConfigError where the named one is not trained, or has another tokenizer or chat template, so that a loss a token
    means something else.
    """
    gate, runs_dir = config.evaluate.gate, Path(config.runs_dir)
    if gate is None or gate.not_worse_than is None:
        return None
    if gate.not_worse_than == PUBLISHED:
        return _last_published(config, model)
    key = "evaluate.gate.not_worse_than"
    found = _trained(runs_dir / gate.not_worse_than)
    if found is None or gate.not_worse_than == config.name:
        what = f"{gate.not_worse_than} is no trained run in {runs_dir}"
        raise ConfigError(Problem(key, what, f"`smollm3-ft runs` lists the runs; {PUBLISHED} takes the last published"))
    if not _has_the_same_tokens(found, model):
        what = f"{found.name} was trained with another tokenizer or chat template"
        raise ConfigError(Problem(key, what, "name a run of the same base model"))
    return found


def _last_published(config: Config, model: Path) -> Other | None:
    found = []
    for record in Path(config.runs_dir).glob(f"[!.]*/{publishing.PUBLISHED}"):
        one, published = _trained(record.parent), files.read_json_if_there(record)
        if one is not None and published.get("verified") and one.name != config.name:
            found.append((published.get("time") or "", one))
    latest_first = (one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True))
    return next((one for one in latest_first if _has_the_same_tokens(one, model)), None)


def _has_the_same_tokens(one: Other, model: Path) -> bool:
    try:
        return chat.alike(chat.load(Path(one.plan.folder) / "model"), chat.load(model))
    except ConfigError:
        return False  # its model is gone


def _trained(folder: Path) -> Other | None:
    """A run that has a trained model; its record is believed, and the files are looked at when they are read."""
    try:
        model = files.read_json(folder / fit.TRAINED)["values"]["model"]
        return Other(folder.name, fit.read(folder / "plan.json"), model)
    except (OSError, ValueError, KeyError, ConfigError):
        return None


def judge(
    gate: Gate | None,
    evaluation: dict[str, Any],
    tuned: Scores,
    than: tuple[str, Scores] | None,
    seed: int,
    beta: float | None,
) -> dict[str, Any]:
    """The verdict: `state` is none, passed or failed, and `why` says it in a line.

    It passes when the lower end of the paired interval of the difference to the base reaches `min_improvement`, and
    when the interval of the difference to the other run, given by name with its scores, does not lie below zero. What
    cannot be measured does not pass.
    """
    if gate is None:
        return {"state": "none", "metric": None}
    found = evaluation["difference"].get(gate.metric)
    reasons = list(_too_little(gate, found))
    against = None
    if than is not None:
        name, scores = than
        against = comparison.between(scores, tuned, gate.metric, seed, beta)
        reasons += _worse(gate, name, against)
    words = gate.metric.replace("_", " ")
    passed = f"the gain in {words} is {_figures(found)}, {gate.min_improvement:g} was asked for" if found else ""
    return {
        "state": "failed" if reasons else "passed",
        "metric": gate.metric,
        "min_improvement": gate.min_improvement,
        "difference": found,
        "not_worse_than": {"run": than[0], "difference": against} if than else None,
        "why": "; ".join(reasons) or passed,
    }


def _too_little(gate: Gate, found: dict[str, float] | None) -> Iterator[str]:
    words = gate.metric.replace("_", " ")
    if found is None:
        yield f"{words} could not be measured on the held-out rows"
    elif not found["low"] >= gate.min_improvement:  # no number is no improvement
        what = "positive is better, and the lower end does not reach"
        yield f"the gain in {words} is {_figures(found)}; {what} {gate.min_improvement:g}"


def _worse(gate: Gate, name: str, found: dict[str, float] | None) -> Iterator[str]:
    words = gate.metric.replace("_", " ")
    if found is None:
        yield f"{words} could not be compared with {name}"
    elif not found["high"] >= 0:
        yield f"the gain in {words} over {name} is {_figures(found)}: surely worse"


def _figures(found: dict[str, float]) -> str:
    return f"{found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]"


def blocked(folder: Path) -> str | None:
    """Why a run's model may not be published; None where nothing is against it."""
    try:
        gate = files.read_json(folder / "evaluation.json")["gate"]
    except (OSError, ValueError, KeyError):
        return None  # not evaluated yet, or of a version without gates
    return str(gate["why"]) if gate["state"] == "failed" else None
