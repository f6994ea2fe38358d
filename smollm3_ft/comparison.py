"""Base beside tuned on the same held-out rows, with intervals: what `evaluation.json` holds.

Intervals are 95 % percentile bootstrap intervals over rows (Efron 1979), seeded; those of the difference are paired:
the same rows are drawn for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smollm3_ft import files

RESAMPLES = 2000
Numbers = npt.NDArray[np.float64]
Metric = Callable[[Numbers], float]


def compare(
    base: dict[str, Any], tuned: dict[str, Any], samples: int, seed: int, beta: float | None = None
) -> dict[str, Any]:
    """`base`, `tuned`, and `difference` (absolute, positive is better) of every metric, and samples side by side.

    `beta` is of preference pairs alone: a reward is beta times the log-likelihood (nats) that an answer gained.
    """
    measured: dict[str, dict[str, Any]] = {"base": {}, "tuned": {}, "difference": {}}
    if base["rows"]:
        for name, column, sign in (("loss", "loss", -1.0), ("token_accuracy", "correct", 1.0)):
            pairs = [_columns(result["rows"], column) for result in (base, tuned)]
            _measure(measured, name, pairs, _ratio, sign, seed)
        if beta is not None:
            for name, of_base, of_tuned in _rewards(base["rows"], tuned["rows"], beta):
                _measure(measured, name, [of_base, of_tuned], _ratio, 1.0, seed)
    short = [
        index
        for index, (one, other) in enumerate(zip(base["answers"], tuned["answers"], strict=True))
        if one["exact"] is not None and other["exact"] is not None
    ]
    if short:
        pairs = [np.array([[float(r["answers"][i]["exact"]), 1.0] for i in short]) for r in (base, tuned)]
        _measure(measured, "exact_match", pairs, _ratio, 1.0, seed)
    chosen = zip(base["answers"][:samples], tuned["answers"][:samples], strict=True)
    return {
        **measured,
        "rows": len(base["rows"]),
        "answered": len(short),
        "stopped": {name: _stopped(result["answers"]) for name, result in (("base", base), ("tuned", tuned))},
        "gate": {"state": "none", "metric": None},
        "samples": [
            {"prompt": b["prompt"], "reference": b["reference"], "base": b["answer"], "tuned": t["answer"]}
            for b, t in chosen
        ],
    }


def read_scores(folder: Path) -> dict[str, Any]:
    return files.read_json(folder / "scores.json")


def _columns(rows: list[dict[str, Any]], column: str) -> Numbers:
    return np.array([[row[column], row["tokens"]] for row in rows], dtype=np.float64)


def _rewards(
    base: list[dict[str, Any]], tuned: list[dict[str, Any]], beta: float
) -> Iterator[tuple[str, Numbers, Numbers]]:
    """How often the chosen answer has the greater reward, a tie counting half, and by how much.

    The base model has gained nothing over itself: a half and zero.
    """
    gains = [
        np.array([after[name] - before[name] for before, after in zip(base, tuned, strict=True)])
        for name in ("chosen", "rejected")
    ]
    margins = beta * (gains[0] - gains[1])
    one, nothing = np.ones_like(margins), np.zeros_like(margins)
    yield "reward_accuracy", np.stack([one / 2, one], 1), np.stack([(np.sign(margins) + 1) / 2, one], 1)
    yield "reward_margin", np.stack([nothing, one], 1), np.stack([margins, one], 1)


def _ratio(pair: Numbers) -> float:
    return float(pair[:, 0].sum() / pair[:, 1].sum())


def _measure(
    measured: dict[str, dict[str, Any]], name: str, pairs: list[Numbers], metric: Metric, sign: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(pairs[0]), (RESAMPLES, len(pairs[0])))
    sampled = [np.array([metric(pair[draw]) for draw in draws]) for pair in pairs]
    values = [metric(pair) for pair in pairs]
    measured["base"][name] = _interval(values[0], sampled[0])
    measured["tuned"][name] = _interval(values[1], sampled[1])
    measured["difference"][name] = _interval(sign * (values[1] - values[0]), sign * (sampled[1] - sampled[0]))


def _interval(value: float, sampled: Numbers) -> dict[str, float]:
    low, high = np.percentile(sampled, (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}


def _stopped(answers: list[dict[str, Any]]) -> float | None:
    return sum(answer["stopped"] for answer in answers) / len(answers) if answers else None
