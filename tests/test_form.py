"""The form that Prefect makes of the parameters' schema, and what its server accepts of what arrives."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate
from prefect.utilities.schema_tools.validation import ValidationError, is_valid_schema, validate

from flows.finetune import finetune_flow
from flows.sweep import sweep_flow
from smollm3_ft.config import Config, Loss
from smollm3_ft.resolve import resolve


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """What is registered of `finetune`."""
    return parameter_schema(finetune_flow).model_dump_for_openapi()


def arrives(schema: dict[str, Any], parameters: dict[str, Any]) -> None:
    """What the server does with a new run's parameters. Raises ValidationError."""
    validate(hydrate(parameters, HydrationContext(raise_on_error=True)), schema, raise_on_error=True)


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every section."""
    for section in schema["definitions"].values():
        yield from section["properties"].items()


def of(schema: dict[str, Any], section: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = schema["definitions"][section]["properties"][key]
    return found


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    """Prefect takes it, and a configuration is what must be given."""
    is_valid_schema(schema)
    assert schema["required"] == ["config"]


def test_no_field_fills_itself_in(schema: dict[str, Any]) -> None:
    """A default or a null in the schema would be sent by a form that nobody touched, and would win over the recipe."""
    for key, field in fields(schema):
        assert "default" not in field, key
        assert not re.search(r"\bnull\b", str(field)), key


def test_every_field_says_what_it_is(schema: dict[str, Any]) -> None:
    """Each has help, which names the usual value where there is one, and the key as its label."""
    for key, field in fields(schema):
        assert field["description"], key
        assert field["title"] == key
    assert of(schema, "Data", "max_length")["description"] == "Longest row, in tokens. Usually 4096"


@pytest.mark.parametrize(
    ("section", "key", "choices"),
    [
        ("Data", "packing", [True, False]),
        ("Train", "gradient_checkpointing", [True, False, "auto"]),
        ("Train", "loss", [*get_args(Loss), "none"]),
        ("Publish", "target", ["none", "local", "hub"]),
    ],
)
def test_what_is_chosen_from_a_list(schema: dict[str, Any], section: str, key: str, choices: list[Any]) -> None:
    """Booleans too, so that one of them can be left unsaid; `none` where the key can be off."""
    assert of(schema, section, key)["enum"] == choices


@pytest.mark.parametrize(
    ("section", "key", "tabs"),
    [
        ("Data", "source", ["text", "list"]),
        ("Data", "validation", ["share", "rows", "split"]),
        ("Train", "learning_rate", ["number", "auto"]),
        ("Train", "max_steps", ["number", "none"]),
        ("Lora", "targets", ["text", "list"]),
        ("Publish", "quantize", ["list", "none"]),
    ],
)
def test_what_is_chosen_by_tabs(schema: dict[str, Any], section: str, key: str, tabs: list[str]) -> None:
    """Alternatives of different types, the first shown at first."""
    assert [one["title"] for one in of(schema, section, key)["anyOf"]] == tabs


@pytest.mark.parametrize(
    ("section", "key", "low"), [("Train", "logging_steps", 1), ("Data", "max_length", 16), ("Train", "epochs", 0)]
)
def test_a_browser_knows_the_bounds(schema: dict[str, Any], section: str, key: str, low: int) -> None:
    """It reads `minimum` and `maximum` alone."""
    assert of(schema, section, key)["minimum"] == low


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"recipe": "sft_lora"},
        {"name": None, "seed": None},
        {"name": "mine", "train": {"max_steps": 5}},
        {"train": {"max_steps": "none", "loss": "none", "learning_rate": "auto", "gradient_checkpointing": "auto"}},
        {"data": {"validation": 0.1, "test": 20, "sample": "none", "columns": "none"}},
        {"data": {"validation": "dev", "test": "none", "columns": {"question": "prompt"}}},
        {"data": {"source": [{"source": "owner/set", "weight": 2, "columns": {"a": "b"}}, {"source": "b.jsonl"}]}},
        {"evaluate": {"gate": "none", "harness": "none", "general": "none", "prompts": ["Hello"]}},
        {"evaluate": {"gate": {"metric": "loss"}}, "publish": {"quantize": ["int8", "int4"]}},
    ],
)
def test_what_a_configuration_holds_arrives(schema: dict[str, Any], config: dict[str, Any]) -> None:
    """What is filled in arrives as exactly that, and so does what a configuration dumps."""
    arrives(schema, {"config": config})
    dumped = Config.model_validate(config).model_dump(mode="json")
    assert dumped == {key: value for key, value in config.items() if value is not None}
    arrives(schema, {"config": dumped})


def test_every_resolved_configuration_arrives(schema: dict[str, Any]) -> None:
    """A run that is started from another's configuration gives every key."""
    arrives(schema, {"config": resolve({}, {}).config.model_dump(mode="json")})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"train": {"max_steps": 0}}, "config.train.max_steps"),
        ({"data": {"max_length": 15}}, "15 is less than the minimum of 16"),
        ({"data": {"columns": {"question": 3}}}, "3 is not of type 'string'"),
        ({"data": {"columns": "some"}}, "config.data.columns"),
        ({"data": {"packing": "none"}}, "'none' is not one of [True, False]"),
        ({"train": {"learning_rate": "fast"}}, "config.train.learning_rate"),
        ({"recipe": "sft"}, "'sft' is not one of"),
        ({"sead": 1}, "'sead' was unexpected"),
        ({"seed": 2**32}, "config.seed"),
        ({"model": {"name": f"hf_{'a' * 34}"}}, "config.model.name"),
        ({"name": f"hf_{'a' * 34}"}, "config.name"),
        ({"publish": {"repo": f"me/hf_{'a' * 34}"}}, "config.publish.repo"),
        ({"evaluate": {"prompts": ["Hello", f"I am hf_{'a' * 34}"]}}, "config.evaluate.prompts"),
        ({"data": {"columns": {"a": f"hf_{'a' * 34}"}}}, "config.data.columns"),
        ({"data": {"source": [{"source": f"hf_{'a' * 34}"}]}}, "config.data.source"),
        ({"monitor": {"trackio": "http://me:password@server"}}, "config.monitor.trackio"),
    ],
)
def test_what_is_out_of_bounds_does_not(schema: dict[str, Any], config: dict[str, Any], said: str) -> None:
    """The server refuses it before there is a run, and names the field."""
    with pytest.raises(ValidationError, match=re.escape(said)):
        arrives(schema, {"config": config})


def test_a_mapping_is_written_as_json_and_left_out_when_empty(schema: dict[str, Any]) -> None:
    """The form has a field for JSON, which it marks; one that is empty is taken away."""
    given = {"columns": {"__prefect_kind": "json"}, "source": "builtin:demo"}
    found = hydrate({"config": {"data": given}}, HydrationContext(raise_on_error=True))
    assert found == {"config": {"data": {"source": "builtin:demo"}}}


def test_a_search_has_a_form_too() -> None:
    """What is varied is written as JSON, each key with its range or its choices, whose names are checked."""
    schema = parameter_schema(sweep_flow).model_dump_for_openapi()
    space = {"train.learning_rate": {"low": 1e-6, "high": 1e-4, "log": True}, "train.adapter": {"choices": ["none"]}}
    arrives(schema, {"config": {}, "sweep": {"trials": 6, "parallel": "auto", "space": space}})
    with pytest.raises(ValidationError, match="'lwo' was unexpected"):
        arrives(schema, {"config": {}, "sweep": {"space": {"train.learning_rate": {"lwo": 1}}}})
