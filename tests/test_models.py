"""A model is found, pinned and described before anything is spent, or said to be none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import configure

from smollm3_ft import models, records
from smollm3_ft.errors import ConfigError
from smollm3_ft.models import ModelPlan


def pinned(name: str | Path, runs_dir: Path) -> ModelPlan:
    return models.pin(configure(model__name=str(name)).model, runs_dir)


def changed(tiny: Path, folder: Path, **settings: Any) -> Path:
    """A copy of builtin:tiny with other settings."""
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


def test_the_built_in_model_is_described(tmp_path: Path) -> None:
    """builtin:tiny is a SmolLM3 of about a million parameters."""
    plan = pinned("builtin:tiny", tmp_path)
    assert (plan.kind, plan.revision, plan.layers, plan.context) == ("builtin", None, 4, 2048)
    assert 0.8e6 < plan.parameters < 1.5e6


def test_the_built_in_model_is_built_once(tmp_path: Path) -> None:
    """builtin:tiny is kept in the folder of all runs, and is the same in every other."""
    first = pinned("builtin:tiny", tmp_path / "a")
    written = (Path(first.folder) / records.RECORD).stat().st_mtime_ns
    assert pinned("builtin:tiny", tmp_path / "a") == first
    assert (Path(first.folder) / records.RECORD).stat().st_mtime_ns == written
    assert pinned("builtin:tiny", tmp_path / "b").digest == first.digest


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_broken_built_in_model_is_built_again(tmp_path: Path, name: str) -> None:
    """A file of builtin:tiny that is gone or altered is made again."""
    first = pinned("builtin:tiny", tmp_path)
    (Path(first.folder) / name).write_bytes(b"x")
    assert pinned("builtin:tiny", tmp_path) == first


def test_a_folder(tiny: Path, tmp_path: Path) -> None:
    """A model's folder is pinned by what is in it, wherever it lies."""
    copy = shutil.copytree(tiny, tmp_path / "copy")
    assert pinned(copy, tmp_path).kind == "folder"
    assert pinned(copy, tmp_path).digest == pinned(tiny, tmp_path).digest
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert pinned(copy, tmp_path).digest != pinned(tiny, tmp_path).digest


def test_another_template_is_another_model(tiny: Path, tmp_path: Path) -> None:
    """The chat template belongs to what is pinned."""
    copy = shutil.copytree(tiny, tmp_path / "copy")
    with (copy / "chat_template.jinja").open("a") as file:
        file.write(" ")
    before, after = pinned(tiny, tmp_path), pinned(copy, tmp_path)
    assert after.chat_digest != before.chat_digest
    assert after.digest != before.digest


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/nowhere/model", "there is no /nowhere/model"),
        ("./model", r"there is no \./model"),
        ("builtin:huge", "there is no builtin:huge"),
        ("a/b/c", "there is no a/b/c"),
    ],
)
def test_no_model(tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is nothing here and cannot be the Hub's is refused without asking anybody."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"model.name: {said}"):
        pinned(name, tmp_path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    """A folder without a model's configuration is refused."""
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ConfigError, match=r"has no readable config\.json"):
        pinned(tmp_path / "thesis", tmp_path)


def test_a_model_without_weights(tiny: Path, tmp_path: Path) -> None:
    """A folder without safetensors is refused."""
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no safetensors weights"):
        pinned(copy, tmp_path)


@pytest.mark.parametrize(
    "settings", [{"architectures": ["BertForMaskedLM"]}, {"architectures": None}, {"num_hidden_layers": None}]
)
def test_a_model_of_another_kind(tiny: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """What is no language model of one decoder is refused."""
    with pytest.raises(ConfigError, match="is no language model"):
        pinned(changed(tiny, tmp_path / "copy", **settings), tmp_path)


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 4), ("bfloat16", 2)])
def test_parameters_follow_from_the_files(tiny: Path, tmp_path: Path, dtype: str, bytes_each: int) -> None:
    """The number of parameters is that of the weights' bytes in their type."""
    size = (tiny / "model.safetensors").stat().st_size
    assert pinned(changed(tiny, tmp_path / "copy", dtype=dtype), tmp_path).parameters == size // bytes_each
