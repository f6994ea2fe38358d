"""Recipe, environment, file and words become one configuration, and a mistake in any of them one clear line."""

import json
from pathlib import Path
from typing import Any

import pytest

from smollm3_ft import layers, resolve, validation
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, Problem


def problems(
    *words: str, environment: dict[str, str] | None = None, file: dict[str, Any] | None = None
) -> list[Problem]:
    """What is said to be wrong."""
    with pytest.raises(ConfigError) as caught:
        resolve.resolve(layers.parse_words(words), environment or {}, file)
    return list(caught.value.problems)


def resolved(*words: str, environment: dict[str, str] | None = None, file: dict[str, Any] | None = None) -> Config:
    return resolve.resolve(layers.parse_words(words), environment or {}, file).config


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
    ("word", "key", "said"),
    [
        ("train.learnig_rate=1", "train.learnig_rate", "did you mean train.learning_rate?"),
        ("learning_rate=1", "learning_rate", "did you mean train.learning_rate?"),
        ("train.packing=true", "train.packing", "did you mean data.packing?"),
        ("train.lora.rank=3", "train.lora.rank", "there is no such key"),
        ("train.learning-rate=1", "train.learning-rate", "did you mean train.learning_rate?"),
        ("data.str=x", "data.str", "there is no such key"),
        ("data.source=[{source: a, colums: {}}]", "data.source.0.colums", "did you mean data.source.columns?"),
        ("data.source=[{source: a}, {source: b, weight: -1}]", "data.source.1.weight", "greater than 0, not -1"),
        ("seed=4294967296", "seed", "less than 4294967296"),
        ("train.epochs=inf", "train.epochs", "finite number"),
        ("train.scheduler=cosin", "train.scheduler", "nearest: cosine"),
        ("recipe=sft_ful", "recipe", "did you mean sft_full?"),
        ("train.epochs=many", "train.epochs", "valid number"),
        ("data.max_length=3", "data.max_length", "greater than or equal to 16, not 3"),
        ("name=../x", "name", "not '../x'"),
        ("seed=-1", "seed", "greater than or equal to 0"),
    ],
)
def test_a_mistake_names_its_key_and_what_is_near(word: str, key: str, said: str) -> None:
    """One line: the key, what is wrong, and the nearest valid key or value."""
    (problem,) = problems(word)
    assert problem.where == key
    assert said in str(problem)
    assert "\n" not in str(problem)


def test_every_mistake_is_named_at_once() -> None:
    """Several mistakes give a line each."""
    found = problems("train.epochs=0", "data.packing=maybe", "sead=1")
    assert sorted(problem.where for problem in found) == ["data.packing", "sead", "train.epochs"]


@pytest.mark.parametrize("word", ["foo", "=3"])
def test_words_that_are_no_setting(word: str) -> None:
    """A word that is neither key=value nor a recipe is named."""
    with pytest.raises(ConfigError, match=f"{word}: is neither"):
        layers.parse_words([word])


def test_a_section_and_its_key_cannot_both_be_given() -> None:
    """A value for a whole section and for a key in it contradict each other."""
    with pytest.raises(ConfigError, match="train is given a value as well"):
        layers.parse_words(["train=3", "train.epochs=2"])


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


REFUSED = [
    "model.trust_remote_code=true",
    "data.over_length=split",
    "data.sample=5",
    "data.exclude_leaks=true",
    "data.format=parquet",
    "train.method=dpo",
    "train.adapter=qlora",
    "train.adapter=auto",
    "train.early_stopping_patience=3",
    "evaluate.prompts=[Hello]",
    "evaluate.general=builtin:general",
    "evaluate.gate={metric: loss}",
    "evaluate.harness=[arc_easy]",
    "monitor.trackio=owner/space",
    "monitor.trackio=http://localhost:7860",
    "monitor.dataset=owner/experiments",
    "publish.target=hub",
    "publish.adapter=keep",
    "publish.quantize=[int8]",
    "publish.demo_space=owner/space",
    "compute.pool=cuda",
    "compute.num_processes=2",
    "compute.strategy=fsdp2",
    "data.source=[{source: a.jsonl, weight: 2}]",
    "data.source=[{source: a.jsonl, format: parquet}]",
]


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_not_built_is_refused(word: str) -> None:
    """A valid value that no step honours yet is refused with its key and what to use instead."""
    (problem,) = problems(word)
    assert problem.where == (word.partition("=")[0] if "format: parquet" not in word else "data.format")
    assert problem.what.endswith("is not built yet")
    assert problem.remedy


@pytest.mark.parametrize("name", ["sft_qlora", "sft_long_context", "dpo", "apo", "classic"])
def test_recipes_that_are_not_built_are_refused(name: str) -> None:
    """A recipe of a later milestone is refused with those that are there."""
    (problem,) = problems(f"recipe={name}")
    assert str(problem).startswith(f"recipe: {name} is not built yet; built are demo, ")


def test_a_pool_from_the_environment_is_refused() -> None:
    """A deployment's pool is refused as one that was typed is."""
    (problem,) = problems(environment={"SMOLLM3_FT_POOL": "cuda"})
    assert str(problem).startswith("compute.pool: cuda is not built yet")


SIZES = ("train.effective_batch_size=16", "train.batch_size=4", "train.gradient_accumulation_steps=2")


def test_batch_sizes_that_contradict() -> None:
    """All three batch sizes given must agree."""
    (problem,) = problems(*SIZES)
    assert problem.where == "train.effective_batch_size"
    assert "16 is not batch_size 4 × gradient_accumulation_steps 2" in problem.what
    assert resolved(*SIZES[:2], "train.gradient_accumulation_steps=4").train.gradient_accumulation_steps == 4


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["train.beta=0.1"], "train.loss"),
        (["train.loss=apo_zero"], "train.loss"),
        (["data.source=[]"], "data.source"),
        (["data.source=[{source: a.jsonl}]", "data.columns={a: prompt}"], "data.columns"),
        (["data.source=[{source: a.jsonl}]", "data.split=dev"], "data.split"),
    ],
)
def test_contradictions(words: list[str], key: str) -> None:
    """Keys that do not go together are named."""
    assert [problem.where for problem in problems(*words)] == [key]


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that permits one folder to be read, and another folder, in which the command is typed."""
    for name in ("allowed/rows.jsonl", "allowed/model/config.json", "here/rows.jsonl", "here/model/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return {"SMOLLM3_FT_READ_ROOTS": str(tmp_path / "allowed")}


@pytest.mark.parametrize(
    "word",
    [
        "data.source={root}/rows.jsonl",
        "data.source={root}/*.jsonl",
        "data.source=../allowed/rows.jsonl",
        "data.source=owner/set",
        "data.source=builtin:demo",
        "model.name={root}/model",
        "model.name=owner/model",
    ],
)
def test_what_may_be_read(roots: dict[str, str], word: str) -> None:
    """What lies in the permitted folders, comes from the Hub or is built in may be read."""
    assert resolved(word.format(root=roots["SMOLLM3_FT_READ_ROOTS"]), environment=roots).recipe == "demo"


@pytest.mark.parametrize(
    "word",
    [
        "data.source=rows.jsonl",
        "data.source={root}/../here/rows.jsonl",
        "data.source={root}/link/rows.jsonl",
        "data.source={root}/../here/*.jsonl",
        "data.source=/etc/*.json",
        "data.source=*.jsonl",
        "data.source=~/*.jsonl",
        "data.source=[{{source: builtin:demo}}, {{source: rows.jsonl}}]",
        "model.name=model",
        "model.name=/etc",
    ],
)
def test_what_may_not_be_read(roots: dict[str, str], word: str) -> None:
    """Whatever the way that leads there, what lies outside of the permitted folders may not be read."""
    (problem,) = problems(word.format(root=roots["SMOLLM3_FT_READ_ROOTS"]), environment=roots)
    assert problem.where == word.partition("=")[0]
    assert "may not be read here" in problem.what


def test_everything_may_be_read_where_nothing_is_said(roots: dict[str, str]) -> None:
    """Without the variable, a run reads what its user names."""
    assert resolved("data.source=rows.jsonl", "model.name=model").data.source == str(Path("rows.jsonl").absolute())


def test_the_keys_of_a_dataset_go_with_it() -> None:
    """Another source takes nothing over that the recipe said of its own."""
    config = resolved("recipe=sft_full", "data.source=owner/set")
    assert (config.data.source, config.data.config) == ("owner/set", None)
    assert resolved("recipe=sft_full").data.config == "SFT"
    assert resolved("data.source=a", "data.split=dev", file={"data": {"split": "x", "source": "b"}}).data.split == "dev"


def test_a_variable_with_a_bad_value_is_named() -> None:
    """What nobody typed is named by the variable that said it."""
    (problem,) = problems(environment={"BATCH_SIZE": "many"})
    assert problem.where == "train.batch_size (from BATCH_SIZE)"


def test_places_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named from here is found from any other process."""
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    config = resolved("data.source=rows.jsonl", "model.name=base", "runs_dir=out")
    assert config.data.source == str(tmp_path / "rows.jsonl")
    assert config.model.name == str(tmp_path / "base")
    assert config.runs_dir == str(tmp_path / "out")


def test_names_on_the_hub_stay_names() -> None:
    """What is not here is left as it is."""
    config = resolved("data.source=[{source: owner/set}, {source: builtin:demo}]", "model.name=owner/model")
    assert [source.source for source in config.data.source] == ["owner/set", "builtin:demo"]  # type: ignore[union-attr]
    assert config.model.name == "owner/model"
