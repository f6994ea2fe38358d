"""Recipe, environment, file and words become one configuration, and a mistake in any of them one clear line."""

from pathlib import Path
from typing import get_args

import pytest
from conftest import problems, resolved

from smollm3_ft import layers
from smollm3_ft.config import Recipe, pool_of
from smollm3_ft.errors import ConfigError


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


REFUSED = [
    "data.format=parquet",
    "data.source=[{source: a.jsonl, format: parquet}]",
]


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_not_built_is_refused(word: str) -> None:
    """A valid value that no step honours yet is refused with its key and what to use instead."""
    (problem,) = problems(word, environment={"SMOLLM3_FT_ALLOW_REMOTE_CODE": "1"})
    assert problem.where == (word.partition("=")[0] if "format: parquet" not in word else "data.format")
    assert problem.what.endswith("is not built yet")
    assert problem.remedy


def test_every_recipe_is_there() -> None:
    """Each name that the configuration knows is a file, and the other way round."""
    assert set(get_args(Recipe)) == {path.stem for path in layers.RECIPES.glob("*.yaml")}
    for name in get_args(Recipe):
        assert resolved(f"recipe={name}").recipe == name


def test_a_loss_of_pairs_and_its_strength() -> None:
    """Pairs are trained with DPO's own loss unless another is named; other methods have none, in any recipe."""
    train = resolved("train.method=dpo").train
    assert (train.loss, train.beta) == ("sigmoid", 0.1)
    train = resolved("recipe=apo").train
    assert (train.loss, train.beta, train.learning_rate, train.max_grad_norm) == ("apo_zero", 0.05, 1e-6, 0.2)
    train = resolved("recipe=apo", "train.beta=none").train
    assert (train.loss, train.beta) == ("apo_zero", 0.1)
    assert resolved().train.loss is None


def test_an_unknown_loss_is_named_with_the_nearest() -> None:
    """A typing error is answered with what was probably meant."""
    (problem,) = problems("train.method=dpo", "train.loss=sigmoidd")
    assert problem.where == "train.loss"
    assert "(nearest: sigmoid)" in problem.what


@pytest.mark.parametrize(("word", "pool"), [("auto", "cuda"), ("none", None), ("other", "other")])
def test_a_deployment_says_the_pool_and_loses_to_a_key(word: str, pool: str | None) -> None:
    """`SMOLLM3_FT_POOL` is what `auto` means, and without it training is done here."""
    config = resolved(f"compute.pool={word}")
    assert pool_of(config, {"SMOLLM3_FT_POOL": "cuda"}) == pool
    assert pool_of(resolved(), {}) is None


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
        (["train.beta=0.1"], "train.beta"),
        (["train.loss=apo_zero"], "train.loss"),
        (["data.validation=none", "train.early_stopping_patience=2"], "train.early_stopping_patience"),
        (["data.source=[]"], "data.source"),
        (["data.source=[{source: a.jsonl}]", "data.columns={a: prompt}"], "data.columns"),
        (["data.source=[{source: a.jsonl}]", "data.split=dev"], "data.split"),
        (["compute.strategy=fsdp2"], "compute.strategy"),
        (["publish.adapter=both"], "publish.adapter"),
    ],
)
def test_contradictions(words: list[str], key: str) -> None:
    """Keys that do not go together are named."""
    assert [problem.where for problem in problems(*words)] == [key]


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


def test_a_link_to_itself_is_no_source(tmp_path: Path) -> None:
    """A link that leads nowhere is there to no one: no traceback comes of it."""
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    assert resolved(f"data.source={loop}").data.source == str(loop)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("somewhere", "somewhere is no place"),
        ("ftp://server", "ftp://server is no place"),
        ("http://me:secret@server", "a URL with a password or a token in it"),
        ("http://server?write_token=secret", "a URL with a password or a token in it"),
    ],
)
def test_a_tracker_is_a_place_that_can_be(place: str, what: str) -> None:
    """Where metrics go is one of four kinds, and no secret stands in a configuration, or in what is said of it."""
    (problem,) = problems(f"monitor.trackio={place}")
    assert (problem.where, problem.what) == ("monitor.trackio", what)
    assert "secret" not in problem.remedy


@pytest.mark.parametrize(
    "place", ["off", "local", "owner/space", "http://127.0.0.1:7860", "https://server.org/trackio/"]
)
def test_trackers(place: str) -> None:
    """Off, on this machine, a Space, or a server."""
    assert resolved(f"monitor.trackio={place}").monitor.trackio == place
