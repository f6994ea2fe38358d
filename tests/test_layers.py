"""Recipes, the environment, files and words over one another, text taken as it stands."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import problems, resolved

from smollm3_ft import layers, resolve, validation
from smollm3_ft.errors import ConfigError


def test_recipe_is_the_lowest_layer() -> None:
    """What nobody says comes from the recipe, and what the recipe leaves out from the defaults."""
    config = resolved()
    assert (config.recipe, config.model.name, config.data.source) == ("demo", "builtin:tiny", "builtin:demo")
    assert config.train.weight_decay == 0.0


def test_environment_beats_recipe() -> None:
    """A known variable wins over the recipe."""
    assert resolved(environment={"LEARNING_RATE": "1e-4"}).train.learning_rate == 1e-4


def test_file_beats_environment() -> None:
    """A file's key wins over a variable."""
    config = resolved(environment={"LEARNING_RATE": "1e-4"}, file={"train": {"learning_rate": 2e-4}})
    assert config.train.learning_rate == 2e-4


def test_words_beat_file() -> None:
    """A word on the command line wins over the file."""
    assert resolved("train.learning_rate=3e-4", file={"train": {"learning_rate": 2e-4}}).train.learning_rate == 3e-4


def test_layers_merge_key_by_key() -> None:
    """A layer that sets one key of a section leaves the others as the layers below have them."""
    config = resolved("train.max_steps=5", environment={"MAX_SEQ_LENGTH": "64"}, file={"train": {"epochs": 2}})
    assert (config.train.max_steps, config.data.max_length, config.train.epochs) == (5, 64, 2)
    assert config.train.learning_rate == resolved().train.learning_rate  # the recipe's


def test_null_leaves_the_layer_below() -> None:
    """A null in a file or a word takes nothing away."""
    assert resolved("train.epochs=null", file={"data": None, "train": {"learning_rate": None}}) == resolved()


def test_none_in_a_higher_layer_switches_off() -> None:
    """none takes away what a lower layer has on."""
    assert resolved("data.system_prompt=none", file={"data": {"system_prompt": "Be kind."}}).data.system_prompt is None


def test_recipe_of_a_file() -> None:
    """A file may name the recipe that it changes."""
    assert resolved(file={"recipe": "sft_lora", "seed": 3}).train.adapter == "lora"


def test_environment_keys_are_told() -> None:
    """The plan can say which keys came from which variable, and a key that was overridden is not among them."""
    environment = {"LEARNING_RATE": "1e-4", "BATCH_SIZE": "4", "MAX_EPOCHS": "2", "HOME": "/"}
    told = resolve.resolve({"train": {"epochs": 3}}, environment).from_environment
    assert told == {"train.learning_rate": "LEARNING_RATE", "train.batch_size": "BATCH_SIZE"}


def test_empty_variables_do_not_count() -> None:
    """A variable that is set to nothing is as one that is not set."""
    assert resolve.resolve({}, {"LEARNING_RATE": " "}).from_environment == {}


@pytest.mark.parametrize("name", layers.built_recipes())
def test_every_built_recipe_resolves(name: str) -> None:
    """A shipped recipe is a valid configuration in which every key has a value."""
    config = resolve.resolve({"recipe": name}, {}).config
    given = dict(layers.flatten(config.model_dump(mode="json")))
    known = list(validation.keys())
    leaves = {key for key in known if not any(other.startswith(f"{key}.") for other in known)}
    unset = {key for key in leaves if key not in given and not key.startswith(("data.source.", "evaluate.gate."))}
    assert unset == {"name"}


@pytest.mark.parametrize("name", layers.built_recipes())
def test_resolving_again_changes_nothing(name: str) -> None:
    """A resolved configuration resolves to itself, whatever the environment says."""
    config = resolve.resolve({"recipe": name, "name": "x"}, {}).config
    assert resolve.resolve(config, {"LEARNING_RATE": "9", "EXPERIMENT_NAME": "other"}).config == config


@pytest.mark.parametrize("name", ["2024_01", "1e5", "0x10", "on", "1.0", "true", "12:30:00"])
def test_text_keys_take_text(name: str) -> None:
    """What YAML would read as a number, a boolean or a time stays text where the key holds text."""
    assert layers.parse_words([f"name={name}"]) == {"name": name}


@pytest.mark.parametrize("name", ["2024_01", "1e5", "0x10", "on", "yes", "1.0", "0123", "2026-11-23", "2026-13-45"])
def test_text_keys_take_text_in_a_file(tmp_path: Path, name: str) -> None:
    """As on the command line, so in a file: a name or a revision is what is written there."""
    path = tmp_path / "c.yaml"
    path.write_text(f"name: {name}\nmodel:\n  revision: {name}\n")
    config = resolved(file=layers.read_file(path))
    assert (config.name, config.model.revision) == (name, name)


def test_text_keys_of_a_list_take_text_in_a_file(tmp_path: Path) -> None:
    """Also in a list of sources a configuration or a split is what is written there."""
    path = tmp_path / "c.yaml"
    path.write_text("data:\n  source:\n  - {source: a, config: 2024_01, split: 0123}\n")
    (source,) = resolved(file=layers.read_file(path)).data.source
    assert (source.config, source.split) == ("2024_01", "0123")  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["2024-13-45", "2024-01-01", "[" * 3000, "{a: b}"])
def test_values_of_another_kind(text: str) -> None:
    """A value that is nothing the key can hold is named with its key."""
    assert [problem.where for problem in problems(f"train.max_steps={text}")] == ["train.max_steps"]


@pytest.mark.parametrize("word", ["data=5", "data=x", "train=[1]", "model=none"])
def test_a_section_is_no_value(word: str) -> None:
    """A section that is given as a value is named."""
    assert [problem.where for problem in problems(word)] == [word.partition("=")[0]]


@pytest.mark.parametrize(
    ("word", "value"), [("2e-5", 2e-5), ("1E-3", 1e-3), ("5.0e-6", 5e-6), ("1", 1.0), ("auto", "auto")]
)
def test_scientific_notation(word: str, value: Any) -> None:
    """A number may be written as people write it, on the command line and in a file."""
    assert resolved(f"train.learning_rate={word}").train.learning_rate == value


def test_scientific_notation_in_a_file(tmp_path: Path) -> None:
    """YAML 1.1 reads 2e-5 as text; a file's 2e-5 is the number."""
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  learning_rate: 2e-5\n")
    assert resolved(file=layers.read_file(path)).train.learning_rate == 2e-5


def test_words_may_hold_an_equals_sign() -> None:
    """Only the first equals sign divides key from value."""
    assert layers.parse_words(["data.system_prompt=a=b"]) == {"data": {"system_prompt": "a=b"}}


def test_lists_and_mappings_as_words() -> None:
    """A value may be YAML."""
    words = layers.parse_words(["data.columns={question: prompt}", "train.lora.targets=[q_proj, v_proj]"])
    assert words == {"data": {"columns": {"question": "prompt"}}, "train": {"lora": {"targets": ["q_proj", "v_proj"]}}}


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        (b"seed: 1\ntrain: ]\n", ":2", "is not YAML"),
        (b"seed: 1\n\ttrain: 2\n", ":2", "is not YAML"),
        (b"seed: 1\nseed: 2\n", ":2", "is not YAML"),
        (b"- seed\n- 1\n", "", "is not a mapping"),
        (b"5\n", "", "is not a mapping"),
        (b"name: \xff\xfe\n", "", "is not UTF-8"),
        (b"{}: 1\n", ":1", "is not YAML"),
        (b"a: &x {b: *x}\n", "", "is not"),
        (b"a: " + b"[" * 3000, "", "is not"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, place: str, said: str) -> None:
    """One line names the file, the line where there is one, and what is wrong."""
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        layers.read_file(path)
    (problem,) = caught.value.problems
    assert problem.where == f"{path}{place}"
    assert said in problem.what
    assert "\n" not in str(problem)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read \(No such file or directory\)"):
        layers.read_file(tmp_path / "c.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """A file with comments alone is a configuration that gives nothing."""
    path = tmp_path / "c.yaml"
    path.write_text("# nothing\n")
    assert resolved(file=layers.read_file(path)) == resolved()


PROMPTS = ["${oc.env:HOME}", r"\${oc.env:HOME}", "Hello ${", "???", "[INST] be", "{x} be", "a: b # c", "~x"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_is_taken_as_it_stands(prompt: str) -> None:
    """A configuration reads nothing from the environment and interprets no text: what is given is what is used."""
    once = resolved(f"data.system_prompt={prompt}")
    assert once.data.system_prompt == prompt
    assert resolve.resolve(once, {}).config.data.system_prompt == prompt


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_file_takes_text_as_it_stands(tmp_path: Path, prompt: str) -> None:
    """As the command line, so a file."""
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"data": {"system_prompt": prompt}}))
    assert resolved(file=layers.read_file(path)).data.system_prompt == prompt


def test_dotted_keys_in_a_file(tmp_path: Path) -> None:
    """A file may write keys as the command line does, beside sections."""
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  epochs: 2\ntrain.max_steps: 5\n")
    train = resolved(file=layers.read_file(path)).train
    assert (train.epochs, train.max_steps) == (2, 5)


def test_a_variable_that_is_no_value() -> None:
    """A variable that cannot be read is named by its own name."""
    assert str(problems(environment={"BATCH_SIZE": "[1"})[0]).startswith("BATCH_SIZE: '[1' in the environment")


@pytest.mark.parametrize("name", ["learning-rate", "str", "2x"])
def test_a_key_of_no_section_is_named(name: str) -> None:
    """A wrong key is named as it was written, whatever characters it has."""
    assert [problem.where for problem in problems(f"{name}=1")] == [name]


def test_columns_may_have_any_name() -> None:
    """Their columns are not our keys: any name will do."""
    assert resolved("data.columns={1: prompt, a-b: completion}").data.columns == {"1": "prompt", "a-b": "completion"}
