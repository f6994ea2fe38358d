"""Runs side by side: where their configurations differ, what became of their rows, their curves, their evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from smollm3_ft import experiments, pages
from smollm3_ft.experiments import Curves, Experiment
from smollm3_ft.runs import NOT_COMPARED

NOTHING = "–"
# What is drawn, in this order, where a run has it: the curve, and its title.
DRAWN = {
    "train/loss": "Training loss",
    "eval/loss": "Validation loss",
    "train/reward_margin": "Reward margin",
    "train/grad_norm": "Gradient norm",
    "train/learning_rate": "Learning rate",
    "train/tokens_per_second": "Tokens a second",
}


class Line(NamedTuple):
    """A line of a table: its name, a value a run as text, and whether the runs differ."""

    name: str
    values: tuple[str, ...]
    differs: bool


class View(NamedTuple):
    """Runs side by side. Each table has a column a run, in the order of `runs`."""

    runs: tuple[Experiment, ...]
    names: tuple[str, ...]
    summary: list[Line]
    config: list[Line]
    made_of: list[Line]
    ledger: list[Line]
    evaluation: list[Line]
    # For each curve that any run has, by its title: a curve a run; empty where it has none.
    curves: dict[str, tuple[list[tuple[float, float]], ...]]


def view(runs: Sequence[Experiment], curves: Sequence[Curves]) -> View:
    """What is shown of some runs."""
    drawn = {title: tuple(one.get(name, []) for one in curves) for name, title in DRAWN.items()}
    return View(
        runs=tuple(runs),
        names=names(runs),
        summary=_summary(runs),
        config=[line for line in _configurations(runs) if line.differs],
        made_of=[line for line in _lines([one.made_of | _versions(one) for one in runs]) if line.differs],
        ledger=_ledgers(runs),
        evaluation=_evaluations(runs),
        curves={title: lines for title, lines in drawn.items() if any(lines)},
    )


def names(runs: Sequence[Experiment]) -> tuple[str, ...]:
    """Their names, with the first digits of the id where two have the same."""
    found = [one.name for one in runs]
    return tuple(f"{one.name}-{one.run_id[:8]}" if found.count(one.name) > 1 else one.name for one in runs)


def row(one: Experiment) -> dict[str, str]:
    """A run as the list of runs shows it."""
    return {
        "status": one.status,
        "recipe": shown(one.config.get("recipe")),
        "steps": shown(one.train.get("steps")),
        "loss": change(one, "loss"),
        "exact match": change(one, "exact_match"),
        "began": experiments.began(one.created),
        "trained": pages.duration(one.train["seconds"]) if one.train.get("seconds") else NOTHING,
        "published": published(one),
    }


def change(one: Experiment, metric: str) -> str:
    """Base → tuned."""
    sides = [one.evaluation.get(side, {}).get(metric, {}).get("value") for side in ("base", "tuned")]
    return (
        " → ".join(NOTHING if value is None else f"{value:.3f}" for value in sides)
        if sides != [None, None]
        else NOTHING
    )


def published(one: Experiment) -> str:
    place = one.published.get("repo") or one.published.get("target")
    if place in (None, "none"):
        return NOTHING
    return f"{place}" if one.published.get("verified") else f"{place}, not verified"


def shown(value: Any) -> str:
    """A value as people read it."""
    if value in (None, "none", ""):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def _summary(runs: Sequence[Experiment]) -> list[Line]:
    lines = _lines([row(one) for one in runs])
    more = ("epochs", "tokens", "supervised_tokens", "tokens_per_second", "mfu", "final_loss", "resumed_from")
    lines += _lines([{name.replace("_", " "): one.train.get(name) for name in more} for one in runs])
    return [line for line in lines if set(line.values) != {NOTHING}]


def _configurations(runs: Sequence[Experiment]) -> list[Line]:
    """What each was told, and what `auto` became where the runs' own answers differ."""
    told = [
        {
            key: one.settled.get(key, value) if value == "auto" else value
            for key, value in one.config.items()
            if key.split(".")[0] not in NOT_COMPARED
        }
        for one in runs
    ]
    return _lines(told)


def _versions(one: Experiment) -> dict[str, Any]:
    digests = {name: value[:12] for name, value in one.made_of.items() if isinstance(value, str) and name != "device"}
    return digests | {"versions": None, **one.made_of.get("versions", {})}


def _ledgers(runs: Sequence[Experiment]) -> list[Line]:
    """Rows of each source, the splits and the tokens."""
    found = []
    for one in runs:
        told: dict[str, Any] = {}
        for source in one.ledger.get("sources", []):
            dropped = ", ".join(f"{count:,} {reason}" for reason, count in source.get("dropped", {}).items())
            told[f"{source['source']}: rows"] = source["rows"]
            told[f"{source['source']}: kept"] = source["kept"]
            told[f"{source['source']}: dropped"] = dropped or "none"
        told |= {f"{split} rows": count for split, count in one.ledger.get("splits", {}).items()}
        told |= {name.replace("_", " "): one.ledger.get(name) for name in ("tokens", "supervised_tokens")}
        found.append(told)
    return [line for line in _lines(found) if set(line.values) != {NOTHING}]


def _evaluations(runs: Sequence[Experiment]) -> list[Line]:
    found = []
    for one in runs:
        measured, told = one.evaluation, {}
        for metric in measured.get("difference", {}):
            for side in ("base", "tuned", "difference"):
                told[f"{metric.replace('_', ' ')}, {side}"] = pages.interval(measured[side][metric])
        if measured:
            told |= {"rows": shown(measured.get("rows")), "gate": shown(measured.get("gate", {}).get("state"))}
        found.append(told)
    return _lines(found)


def _lines(tables: Sequence[dict[str, Any]]) -> list[Line]:
    """Each name that any of the tables has, in the order in which they come."""
    order = dict.fromkeys(name for table in tables for name in table)
    lines = []
    for name in order:
        values = tuple(shown(table.get(name)) for table in tables)
        lines.append(Line(name, values, len(set(values)) > 1))
    return lines


def page(view: View) -> str:
    """The view as a self-contained HTML page."""
    plots = {
        title: pages.curves(dict(zip(view.names, lines, strict=True)), 560, 230, legend=False)
        for title, lines in view.curves.items()
    }
    template = pages.templates().get_template("compare.html")
    return template.render(view=view, plots=plots, colours=pages.COLOURS, style=pages.style())
