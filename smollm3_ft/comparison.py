"""Base beside tuned on the same held-out rows, with intervals: what `evaluation.json` holds beside the gate's verdict.

Intervals are 95 % percentile bootstrap intervals over rows (Efron 1979), seeded; those of the difference are paired:
the same rows are drawn for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smollm3_ft import files

RESAMPLES = 2000
SELDOM = 0.5  # a model that ends fewer of its answers has not learned to end them
ONE_ROW = "there is 1 held-out row: its intervals have no width, and say nothing; raise data.test"
LARGEST = 700.0  # whose exponential is still a number
Numbers = npt.NDArray[np.float64]
Scores = dict[str, Any]  # what `evaluation.py` writes of one model
Measured = dict[str, dict[str, dict[str, float]]]  # of base, tuned and difference each metric's value, low and high


class Metric(NamedTuple):
    """A ratio of two sums over rows, of base and of tuned: each (rows, 2). `sign` is 1 where more is better."""

    name: str
    base: Numbers
    tuned: Numbers
    sign: float
    of: Callable[[Numbers], Numbers] = np.asarray  # the identity


def compare(
    base: Scores,
    tuned: Scores,
    samples: int,
    seed: int,
    beta: float | None = None,
    origins: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """`base`, `tuned`, and `difference` (absolute, positive is better) of every metric, and samples side by side.

    `beta` is of preference pairs alone: a reward is beta times the log-likelihood (nats) that an answer gained.
    `origins` has the `source` and the `format` of each row; where there are several, each has its own figures in `by`.
    """
    both = base["answers"], tuned["answers"]
    shown = [*zip(*(side[:samples] for side in both), strict=True)]
    shown += zip(base.get("prompts", ()), tuned.get("prompts", ()), strict=True)
    answered = {"base": _answered(base), "tuned": _answered(tuned)}
    return {
        **measure(_metrics(base, tuned, beta), seed),
        "by": _by(base, tuned, beta, seed, origins or {}),
        "rows": len(base["rows"]),
        "answered": len(_short(*both)),
        "general_rows": len(base.get("general", ())),
        "answers": answered,
        "warnings": [*_warnings(answered["tuned"]), *([ONE_ROW] if len(base["rows"]) == 1 else [])],
        "samples": [
            {"prompt": b["prompt"], "reference": b["reference"], "base": b["answer"], "tuned": t["answer"]}
            for b, t in shown
        ],
    }


def between(one: Scores, other: Scores, metric: str, seed: int, beta: float | None = None) -> dict[str, float] | None:
    """By how much `other` is better than `one` by a metric, with its interval; None where it cannot be measured.

    Both are tuned models, so the metrics that compare with the base do so with each other here.
    """
    found = [entry for entry in _metrics(one, other, beta) if entry.name == metric]
    return measure(found, seed)["difference"][metric] if found else None


def lost(tuned: Scores, variant: Scores, seed: int) -> dict[str, Any]:
    """What a quantized variant of the tuned model scores, and by how much that is better: as `compare` has it.

    Empty without held-out rows.
    """
    found = measure(_metrics(tuned, variant, None), seed) if tuned["rows"] else None
    return {**found["tuned"], "difference": found["difference"]} if found else {}


def measure(metrics: Sequence[Metric], seed: int) -> Measured:
    """Values and intervals. Metrics of the same rows share their draws."""
    measured: Measured = {"base": {}, "tuned": {}, "difference": {}}
    for rows in dict.fromkeys(len(metric.base) for metric in metrics):
        alike = [metric for metric in metrics if len(metric.base) == rows]
        columns = np.concatenate([np.concatenate([metric.base, metric.tuned], 1) for metric in alike], 1)
        sums = np.concatenate([columns.sum(0, keepdims=True), _drawn(columns, seed)])
        for at, metric in enumerate(alike):
            base, tuned = (metric.of(sums[:, 4 * at + n] / sums[:, 4 * at + n + 1]) for n in (0, 2))
            for side, found in (("base", base), ("tuned", tuned), ("difference", metric.sign * (tuned - base))):
                measured[side][metric.name] = _interval(found)
    order = [metric.name for metric in metrics]
    return {side: {name: found[name] for name in order} for side, found in measured.items()}


def read_scores(folder: Path) -> Scores:
    return files.read_json(folder / "scores.json")


def _metrics(base: Scores, tuned: Scores, beta: float | None) -> list[Metric]:
    found: list[Metric] = []
    if base["rows"]:
        losses, hits = _columns(base, tuned, "rows", "loss"), _columns(base, tuned, "rows", "correct")
        found += [
            Metric("loss", *losses, -1.0),
            Metric("perplexity", *losses, -1.0, _exponential),
            Metric("token_accuracy", *hits, 1.0),
        ]
        if beta is not None:
            found += _rewards(base["rows"], tuned["rows"], beta)
    short = _short(base["answers"], tuned["answers"])
    if short:
        right = [np.array([[float(r["answers"][i]["exact"]), 1.0] for i in short]) for r in (base, tuned)]
        found.append(Metric("exact_match", right[0], right[1], 1.0))
    if base.get("general"):
        found.append(Metric("general_loss", *_columns(base, tuned, "general", "loss"), -1.0))
    return found


def _columns(base: Scores, tuned: Scores, rows: str, column: str) -> tuple[Numbers, Numbers]:
    of_base, of_tuned = (
        np.array([[row[column], row["tokens"]] for row in scores[rows]], dtype=np.float64) for scores in (base, tuned)
    )
    return of_base, of_tuned


def _rewards(base: list[dict[str, Any]], tuned: list[dict[str, Any]], beta: float) -> list[Metric]:
    """How often the chosen answer has the greater reward, a tie counting half, and by how much.

    The base model has gained nothing over itself: a half and zero.
    """
    gains = [
        np.array([after[name] - before[name] for before, after in zip(base, tuned, strict=True)])
        for name in ("chosen", "rejected")
    ]
    margins = beta * (gains[0] - gains[1])
    one, nothing = np.ones_like(margins), np.zeros_like(margins)
    preferred = np.stack([(np.sign(margins) + 1) / 2, one], 1)
    return [
        Metric("reward_accuracy", np.stack([one / 2, one], 1), preferred, 1.0),
        Metric("reward_margin", np.stack([nothing, one], 1), np.stack([margins, one], 1), 1.0),
    ]


def _exponential(losses: Numbers) -> Numbers:
    return np.exp(np.minimum(losses, LARGEST))


def _drawn(columns: Numbers, seed: int) -> Numbers:
    """(RESAMPLES, columns): the sums over as many rows as there are, drawn with replacement."""
    random, rows = np.random.default_rng(seed), len(columns)
    return np.stack([np.bincount(random.integers(0, rows, rows), minlength=rows) @ columns for _ in range(RESAMPLES)])


def _interval(found: Numbers) -> dict[str, float]:
    """Of a value and, behind it, what the draws gave."""
    low, high = np.percentile(found[1:], (2.5, 97.5))
    return {"value": float(found[0]), "low": float(low), "high": float(high)}


def _by(
    base: Scores, tuned: Scores, beta: float | None, seed: int, origins: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """The figures of each source and of each format, where there are several."""
    found: dict[str, dict[str, Any]] = {}
    for kind in ("source", "format"):
        of_rows = origins.get(kind, ())
        names = list(dict.fromkeys(of_rows))
        for name in names if len(names) > 1 else ():
            own = {index for index, of_row in enumerate(of_rows) if of_row == name}
            parts = [_part(scores, own) for scores in (base, tuned)]
            figures = measure(_metrics(parts[0], parts[1], beta), seed)
            found.setdefault(kind, {})[name] = {"rows": len(own), **figures}
    return found


def _part(scores: Scores, own: set[int]) -> Scores:
    """The scores of some of the rows."""
    return {
        "rows": [row for index, row in enumerate(scores["rows"]) if index in own],
        "answers": [answer for answer in scores["answers"] if answer["row"] in own],
    }


def _short(base: list[dict[str, Any]], tuned: list[dict[str, Any]]) -> list[int]:
    """Which answers are compared word for word."""
    pairs = enumerate(zip(base, tuned, strict=True))
    return [index for index, (b, t) in pairs if b["exact"] is not None and t["exact"] is not None]


def _answered(scores: Scores) -> dict[str, Any]:
    """How long answers are, in tokens, and of how many it can be said whether the model ended them by itself."""
    answers = [*scores["answers"], *scores.get("prompts", ())]
    said = [answer["stopped"] for answer in answers if answer["stopped"] is not None]
    lengths = [answer["tokens"] for answer in answers]
    return {
        "answers": len(answers),
        "tokens": {"mean": float(np.mean(lengths)), "longest": max(lengths)} if lengths else None,
        "judged": len(said),
        "stopped": sum(said) / len(said) if said else None,
    }


def _warnings(tuned: dict[str, Any]) -> list[str]:
    if tuned["stopped"] is None or tuned["stopped"] >= SELDOM:
        return []
    went_on = round((1 - tuned["stopped"]) * tuned["judged"])
    what = f"the tuned model did not end {went_on} of {tuned['judged']} answers by itself"
    return [f"{what}: see whether the training rows' answers end with the token that ends a turn"]
