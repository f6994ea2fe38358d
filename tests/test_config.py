"""What a configuration holds: what was given, and nothing else."""

import json
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from smollm3_ft.config import Config


def test_null_is_not_given() -> None:
    """A null key keeps its default and does not count as set."""
    config = Config.model_validate({"seed": None, "train": {"max_steps": None, "epochs": None}})
    assert (config.seed, config.train.epochs) == (42, 1)
    assert config.model_fields_set == {"train"}
    assert config.train.model_fields_set == set()


def test_none_switches_off() -> None:
    """The text none is the null of a key that can be off, and counts as set."""
    config = Config.model_validate({"evaluate": {"general": "none"}})
    assert config.evaluate.general is None
    assert config.evaluate.model_fields_set == {"general"}


@pytest.mark.parametrize("given", [{"data": {"packing": "none"}}, {"train": "none"}, {"train": {"epochs": "none"}}])
def test_none_needs_a_key_that_can_be_off(given: dict[str, Any]) -> None:
    """A key that must have a value refuses none."""
    with pytest.raises(ValidationError):
        Config.model_validate(given)


def test_only_what_was_given_is_dumped() -> None:
    """A dump holds the given keys, with none for what was switched off."""
    config = Config.model_validate({"seed": 7, "data": {"validation": "none", "columns": None}})
    assert config.model_dump(mode="json") == {"seed": 7, "data": {"validation": "none"}}
    assert Config().model_dump(mode="json") == {}


GIVEN = {
    "name": "a.b-c_1",
    "data": {
        "source": [
            {"source": "rows.jsonl", "columns": {"question": "prompt"}},
            {"source": "owner/set", "split": "dev"},
        ],
        "validation": "none",
        "test": 20,
    },
    "train": {"learning_rate": 2e-05, "lora": {"targets": ["q_proj", "v_proj"]}},
    "evaluate": {"general": "none"},
}


def test_survives_json() -> None:
    """Through JSON and back, the same keys are set to the same values."""
    config = Config.model_validate(GIVEN)
    again = Config.model_validate(json.loads(config.model_dump_json()))
    assert again == config
    assert again.model_dump(mode="json") == config.model_dump(mode="json") == GIVEN


def test_survives_yaml() -> None:
    """Through YAML and back, the same keys are set to the same values."""
    config = Config.model_validate(GIVEN)
    again = Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again.model_dump(mode="json") == GIVEN


@pytest.mark.parametrize(
    ("text", "value"),
    [("monitor: {trackio: off}", "off"), ("data: {thinking: on}", "on"), ("data: {dedup: none}", "none")],
)
def test_bare_on_and_off_are_text_for_text_keys(text: str, value: str) -> None:
    """YAML reads on and off as booleans; a key of text gets the word."""
    config = Config.model_validate(yaml.safe_load(text))
    ((_, values),) = config.model_dump(mode="json").items()
    assert list(values.values()) == [value]


def test_booleans_stay_booleans() -> None:
    """A key that may be a boolean keeps on and off as true and false."""
    config = Config.model_validate({"data": {"packing": False}, "train": {"gradient_checkpointing": True}})
    assert config.data.packing is False
    assert config.train.gradient_checkpointing is True


def test_frozen() -> None:
    """No key can be set afterwards, at any depth."""
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lora.r = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "given", [{"sead": 1}, {"train": {"learnig_rate": 1}}, {"data": {"source": [{"source": "a", "colums": {}}]}}]
)
def test_unknown_keys_are_forbidden(given: dict[str, Any]) -> None:
    """A key that is not there is refused, at any depth."""
    with pytest.raises(ValidationError):
        Config.model_validate(given)


@pytest.mark.parametrize("name", ["demo", "2024_01", "a.b-c", "_x", "-x", "9"])
def test_names(name: str) -> None:
    """A run's name is letters, digits, dots, underscores and dashes."""
    assert Config(name=name).name == name


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "..", "a b", "x\n", "é", "x" * 101])
def test_no_names(name: str) -> None:
    """A name is one path segment without a leading dot."""
    with pytest.raises(ValidationError):
        Config(name=name)


def test_numbers_are_text_for_text_keys() -> None:
    """A name of digits, which YAML reads as a number, stays the name."""
    assert Config.model_validate(yaml.safe_load("name: 2024")).name == "2024"


@pytest.mark.parametrize(("given", "kind"), [(0.1, float), (1, int), (20, int), ("dev", str), (None, float)])
def test_held_out_is_a_share_or_rows_or_a_split(given: Any, kind: type) -> None:
    """Below one it is a share, from one on rows, a word a split's name."""
    assert type(Config.model_validate({"data": {"validation": given}}).data.validation) is kind


@pytest.mark.parametrize("given", [0, 1.5, -1, -0.1, "0.5x", ""])
def test_no_held_out(given: Any) -> None:
    """Nothing else is a share, a number of rows, or a name."""
    with pytest.raises(ValidationError):
        Config.model_validate({"data": {"validation": given}})


@pytest.mark.parametrize(
    "given",
    [
        {"seed": -1},
        {"data": {"max_length": 15}},
        {"data": {"max_bad_rows": 1.1}},
        {"train": {"epochs": 0}},
        {"train": {"learning_rate": 0}},
        {"train": {"save_total_limit": 0}},
        {"train": {"lora": {"dropout": 1}}},
        {"monitor": {"dataset": "a/b/c"}},
        {"recipe": "demo2"},
    ],
)
def test_bounds(given: dict[str, Any]) -> None:
    """A value out of its bounds is refused."""
    with pytest.raises(ValidationError):
        Config.model_validate(given)
