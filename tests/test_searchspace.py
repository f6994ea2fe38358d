"""What a sweep searches is checked by the keys' own bounds before anything runs."""

from typing import Any

import pytest
from conftest import configure

from smollm3_ft import layers, searchspace
from smollm3_ft.errors import ConfigError
from smollm3_ft.searchspace import Sweep

RATE = {"train.learning_rate": {"low": 1e-6, "high": 1e-4, "log": True}}


def said(space: dict[str, Any], given: dict[str, Any] | None = None, **config: Any) -> str:
    """What is wrong, a problem a line."""
    with pytest.raises(ConfigError) as caught:
        searchspace.check(configure(**config), searchspace.read({"sweep": {**(given or {}), "space": space}}))
    return str(caught.value.message)


def test_a_space_is_typed_in_words_or_in_sections() -> None:
    """Dotted words, sections and dotted keys of a file mean the same."""
    words = layers.parse_words(
        [f"sweep.space.train.learning_rate.{end}" for end in ("low=1e-6", "high=1e-4", "log=true")]
    )
    sections = {"sweep": {"space": {"train": {"learning_rate": RATE["train.learning_rate"]}}}}
    assert searchspace.read(words) == searchspace.read(sections) == searchspace.read({"sweep": {"space": RATE}})


def test_words_win_over_a_file_key_by_key() -> None:
    """One end of a range can be moved."""
    moved = layers.parse_words(["sweep.space.train.learning_rate.high=1", "sweep.trials=3"])
    sweep = searchspace.read({"sweep": {"trials": 9, "metric": "token_accuracy", "space": RATE}}, moved)
    assert (sweep.trials, sweep.metric, sweep.space["train.learning_rate"].high) == (3, "token_accuracy", 1.0)
    assert sweep.space["train.learning_rate"].low == 1e-6


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "sweep.space: is empty"),
        ({"train.learnig_rate": {"low": 1, "high": 2}}, "did you mean train.learning_rate?"),
        (
            {"train.learning_rate": {"low": 1, "hihg": 2}},
            "sweep.space.train.learning_rate.hihg: there is no such key; did",
        ),
        ({"train.learning_rate": 3}, "sweep.space.train.learning_rate: is 3; give {low"),
        ({"train.learning_rate": {"low": 1.0}}, "needs either low and high, or choices"),
        ({"train.learning_rate": {"low": 1, "high": 2, "choices": [1, 2]}}, "needs either low and high, or choices"),
        ({"train.learning_rate": {"low": 2, "high": 1}}, "low 2 is not below high 1"),
        ({"train.learning_rate": {"low": -1, "high": 1}}, "sweep.space.train.learning_rate: should be greater than 0"),
        ({"train.weight_decay": {"low": 0, "high": 1, "log": True}}, "a logarithm of low 0 there is none"),
        ({"train.lora.r": {"low": 4, "high": 64.5}}, "train.lora.r holds whole numbers"),
        ({"train.adapter": {"low": 1, "high": 2}}, "train.adapter holds no number; give choices"),
        ({"train.adapter": {"choices": ["none", "lorra"]}}, "(nearest: lora), not 'lorra'"),
        ({"train.adapter": {"choices": ["lora"]}}, "has fewer than two choices"),
        ({"name": {"choices": ["a", "b"]}}, "sweep.space.name: does not say what is trained"),
        ({"train": {"choices": [1, 2]}}, "sweep.space.train: is a section"),
        ({"model.trust_remote_code": {"choices": [True, False]}}, "may not be run here"),
    ],
)
def test_a_mistake_in_the_space_is_named(space: dict[str, Any], words: str) -> None:
    """The key, what is wrong with it, and the nearest valid one."""
    assert words in said(space)


@pytest.mark.parametrize(
    ("given", "config", "words"),
    [
        ({"trials": 0}, {}, "sweep.trials: should be greater than 0"),
        ({"trails": 3}, {}, "sweep.trails: there is no such key; did you mean sweep.trials?"),
        ({"metric": "los"}, {}, "sweep.metric: should be 'loss'"),
        ({"metric": "reward_margin"}, {}, "reward_margin is of train.method=dpo"),
        ({"parallel": 2}, {}, "2 trials at a time need workers"),
        ({"publish_best": True}, {"publish__target": "none"}, "sweep.publish_best: publish.target is none"),
        ({}, {"data__validation": "none"}, "sweep.metric: is measured on validation rows"),
    ],
)
def test_a_mistake_in_the_sweep_is_named(given: dict[str, Any], config: dict[str, Any], words: str) -> None:
    """What cannot work is said before anything runs."""
    assert words in said(RATE, given, **config)


def test_a_value_that_needs_another_is_no_mistake() -> None:
    """An adapter's rank may be searched beside the adapter."""
    space = {"train.adapter": {"choices": ["none", "lora"]}, "train.lora.r": {"low": 4, "high": 64, "log": True}}
    searchspace.check(configure(), searchspace.read({"sweep": {"space": space}}))


def test_values_replace_those_of_the_configuration() -> None:
    """Nothing else changes."""
    before = configure(train__max_steps=7)
    after = searchspace.with_values(before, {"train.lora.r": 4, "train.adapter": "lora"})
    assert (after.train.lora.r, after.train.adapter, after.train.max_steps) == (4, "lora", 7)
    assert searchspace.with_values(after, {"train.lora.r": before.train.lora.r, "train.adapter": "none"}) == before


def test_a_column_may_have_a_dot_in_its_name() -> None:
    """It is no section of the configuration."""
    columns = {"meta.question": "prompt", "meta.answer": "completion"}
    config = configure(data__columns=columns)
    assert searchspace.with_values(config, {"train.lora.r": 4}).data.columns == columns


def test_a_sweep_survives_json() -> None:
    """As Prefect and the sweep's record keep it."""
    sweep = searchspace.read({"sweep": {"space": {**RATE, "train.adapter": {"choices": ["none", "lora"]}}}})
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
