"""Base and tuned side by side: positive is better, and the intervals say how sure that is."""

from typing import Any

import numpy as np
import pytest

from smollm3_ft.comparison import compare


def scores(
    losses: list[float], tokens: int = 10, hits: int = 5, exact: list[bool | None] | None = None
) -> dict[str, Any]:
    """The scores of one model: the loss a token of each row, the hits of every row, and whether answers are right."""
    rows = [{"loss": loss * tokens, "tokens": tokens, "correct": hits} for loss in losses]
    answers = [
        {"row": n, "prompt": f"p{n}", "reference": f"r{n}", "answer": f"a{n}", "exact": right, "tokens": n + 1}
        | {"stopped": n % 2 == 0}
        for n, right in enumerate(exact or [])
    ]
    return {"rows": rows, "answers": answers}


def drawn(shift: float = 0.0, count: int = 60) -> list[float]:
    """Losses that vary much from row to row."""
    return [float(loss) + shift for loss in np.random.default_rng(5).uniform(0, 4, count)]


def test_values_are_those_of_the_tokens() -> None:
    """The loss is nats a token of all rows, a long row counting more than a short one."""
    base = {
        "rows": [{"loss": 10.0, "tokens": 10, "correct": 2}, {"loss": 90.0, "tokens": 30, "correct": 18}],
        "answers": [],
    }
    measured = compare(base, base, samples=0, seed=0)
    assert measured["base"]["loss"]["value"] == 100 / 40
    assert measured["base"]["token_accuracy"]["value"] == 20 / 40


@pytest.mark.parametrize(
    ("metric", "base", "better"),
    [
        ("loss", scores(drawn()), scores(drawn(-0.5))),
        ("token_accuracy", scores(drawn(), hits=4), scores(drawn(), hits=6)),
        ("exact_match", scores(drawn(), exact=[False] * 40), scores(drawn(), exact=[True] * 30 + [False] * 10)),
    ],
)
def test_positive_is_better(metric: str, base: dict[str, Any], better: dict[str, Any]) -> None:
    """A better model has a positive difference with an interval above zero, a worse one the reverse."""
    there, back = (compare(*pair, samples=0, seed=1)["difference"][metric] for pair in ((base, better), (better, base)))
    assert 0 < there["low"] <= there["value"] + 1e-9 <= there["high"] + 2e-9
    assert back["high"] < 0
    assert back["value"] == pytest.approx(-there["value"])


def test_base_against_itself() -> None:
    """A model is neither better nor worse than itself."""
    itself = scores(drawn(), exact=[True, False] * 10)
    for difference in compare(itself, itself, samples=0, seed=1)["difference"].values():
        assert difference["low"] <= 0 <= difference["high"]
        assert difference["value"] == 0


def test_noise_is_no_difference() -> None:
    """A difference that changes its sign from row to row has zero in its interval."""
    noisy = [loss + (0.5 if index % 2 else -0.5) for index, loss in enumerate(drawn())]
    difference = compare(scores(drawn()), scores(noisy), samples=0, seed=1)["difference"]["loss"]
    assert difference["low"] < 0 < difference["high"]


def test_the_same_rows_are_drawn_for_both() -> None:
    """A constant gain is sure, however much the rows vary: the interval of the difference is paired."""
    measured = compare(scores(drawn()), scores(drawn(-0.25)), samples=0, seed=1)
    assert measured["base"]["loss"]["high"] - measured["base"]["loss"]["low"] > 0.4
    assert measured["difference"]["loss"] == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25})


def test_intervals_are_of_95_percent() -> None:
    """The interval of a mean is that of its standard error, near enough."""
    losses = drawn(count=400)
    interval = compare(scores(losses), scores(losses), samples=0, seed=1)["base"]["loss"]
    wanted = 1.96 * np.std(losses) / np.sqrt(len(losses))
    assert (interval["high"] - interval["low"]) / 2 == pytest.approx(wanted, rel=0.1)


def test_seeded() -> None:
    """The same seed draws the same intervals, another others."""
    measured = [compare(scores(drawn()), scores(drawn(-1)), samples=0, seed=seed)["base"] for seed in (1, 1, 2)]
    assert measured[0] == measured[1] != measured[2]


def test_long_answers_are_not_compared() -> None:
    """An answer whose reference is long counts for exact match on neither side."""
    base, tuned = scores([1.0] * 3, exact=[False, None, True]), scores([1.0] * 3, exact=[True, None, True])
    measured = compare(base, tuned, samples=0, seed=1)
    assert measured["answered"] == 2
    assert measured["tuned"]["exact_match"]["value"] == 1.0
    assert measured["base"]["exact_match"]["value"] == 0.5


def test_without_held_out_rows() -> None:
    """With nothing held out there is nothing to compare, and no metric is made up."""
    nothing = scores([])
    measured = compare(nothing, nothing, samples=8, seed=1)
    assert (measured["base"], measured["tuned"], measured["difference"]) == ({}, {}, {})
    assert (measured["rows"], measured["samples"], measured["answers"]["tuned"]["stopped"]) == (0, [], None)


def test_samples_are_side_by_side() -> None:
    """As many samples as asked for, with prompt, reference and both answers."""
    base, tuned = scores([1.0] * 3, exact=[False] * 3), scores([1.0] * 3, exact=[True] * 3)
    measured = compare(base, tuned, samples=2, seed=1)
    assert measured["samples"][1] == {"prompt": "p1", "reference": "r1", "base": "a1", "tuned": "a1"}
    assert len(measured["samples"]) == 2
    assert measured["answers"]["tuned"]["stopped"] == pytest.approx(2 / 3)
    assert measured["answers"]["tuned"]["tokens"] == {"mean": 2.0, "longest": 3}


def test_a_model_that_does_not_end_its_answers_is_found() -> None:
    """It is said as a warning, where it can be said: an answer may go on for as long as its reference does."""
    base, going_on = scores([1.0] * 8, exact=[False] * 8), scores([1.0] * 8, exact=[False] * 8)
    for answer in going_on["answers"]:
        answer["stopped"] = None if answer["row"] < 2 else False
    compared = compare(base, going_on, samples=0, seed=1)
    assert compared["answers"]["tuned"]["stopped"] == 0
    assert compared["answers"]["base"]["stopped"] == 0.5
    assert "did not end 6 of 6 answers" in compared["warnings"][0]
    assert compare(going_on, base, samples=0, seed=1)["warnings"] == []


def test_one_row_is_no_evidence() -> None:
    """Drawn again it is always the same, so its interval has no width, and looks sure: that is said."""
    one = scores([1.0], exact=[True])
    assert "1 held-out row" in compare(one, one, samples=0, seed=1)["warnings"][0]


def test_each_source_and_format_has_its_own_figures() -> None:
    """What is better for one source and worse for the other is told for each, and adds up; one alone tells nothing."""
    base, tuned = scores([2.0] * 40, exact=[False] * 40), scores([1.0] * 30 + [3.0] * 10, exact=[True] * 40)
    origins = {"source": ["a"] * 30 + ["b"] * 10, "format": ["messages"] * 40}
    compared = compare(base, tuned, samples=0, seed=1, origins=origins)
    assert list(compared["by"]) == ["source"]
    parts = compared["by"]["source"]
    assert {name: part["rows"] for name, part in parts.items()} == {"a": 30, "b": 10}
    assert [part["difference"]["loss"]["value"] for part in parts.values()] == [1.0, -1.0]
    assert compared["difference"]["loss"]["value"] == 0.5
    assert parts["b"]["tuned"]["exact_match"]["value"] == 1.0


def test_what_was_forgotten_is_told() -> None:
    """A greater loss on general rows is a negative difference."""
    base, tuned = scores(drawn()), scores(drawn(-1))
    base["general"], tuned["general"] = scores(drawn())["rows"], scores(drawn(0.3))["rows"]
    difference = compare(base, tuned, samples=0, seed=1)["difference"]
    assert difference["general_loss"]["high"] < 0 < difference["loss"]["low"]


def test_a_very_bad_model_has_a_perplexity() -> None:
    """Its perplexity is a number that JSON can hold."""
    measured = compare(scores([5.0] * 3), scores([5000.0] * 3), samples=0, seed=1)["tuned"]["perplexity"]
    assert np.isfinite(list(measured.values())).all()


def preferences(chosen: list[float], rejected: list[float]) -> dict[str, Any]:
    """The scores of one model on pairs: the log-likelihoods of both answers."""
    found = scores([1.0] * len(chosen))
    found["rows"] = [
        {**row, "chosen": one, "rejected": other}
        for row, one, other in zip(found["rows"], chosen, rejected, strict=True)
    ]
    return found


def test_rewards_are_what_was_gained_over_the_base_model() -> None:
    """The margin is beta times what the chosen answer gained beyond the rejected one; the base has gained nothing."""
    base = preferences([-5.0, -9.0, -4.0, -4.0], [-3.0, -3.0, -3.0, -3.0])
    tuned = preferences([-4.0, -6.0, -4.0, -5.0], [-3.0, -4.0, -3.0, -3.0])  # gains: 1, 4, 0, -1
    measured = compare(base, tuned, samples=0, seed=1, beta=0.5)
    assert measured["tuned"]["reward_margin"]["value"] == pytest.approx(0.5 * (1 + 4 + 0 - 1) / 4)
    assert measured["tuned"]["reward_accuracy"]["value"] == (1 + 1 + 0.5 + 0) / 4
    assert measured["base"]["reward_margin"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert measured["base"]["reward_accuracy"]["value"] == 0.5
    assert measured["difference"]["reward_accuracy"]["value"] == 0.125


def test_a_preference_that_was_learned_is_sure() -> None:
    """A margin that rose on every pair has an interval above zero, and the base against itself is at zero."""
    base = preferences(drawn(), drawn())
    tuned = preferences(drawn(0.4), drawn(-0.1))
    difference = compare(base, tuned, samples=0, seed=1, beta=0.1)["difference"]
    assert difference["reward_margin"] == pytest.approx({"value": 0.05, "low": 0.05, "high": 0.05})
    assert difference["reward_accuracy"]["low"] == 0.5
    assert compare(base, base, samples=0, seed=1, beta=0.1)["difference"]["reward_margin"]["high"] == 0.0
