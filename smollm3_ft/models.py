"""The model to start from, pinned: a Hub commit, a local folder, or the built-in one, with its size and its digest."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from smollm3_ft import chat, files, hub, locks, records
from smollm3_ft.config import Model
from smollm3_ft.errors import ConfigError, Problem

TINY = "builtin:tiny"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class ModelPlan(BaseModel):
    """A pinned model. `folder` holds at least its configuration and tokenizer; `fetch` brings the weights."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["builtin", "folder", "hub"]
    revision: str | None
    folder: str
    digest: str
    chat_digest: str
    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    tied: bool
    vocabulary: int
    context: int
    code: bool = False  # of its own, which is run


def pin(model: Model, runs_dir: Path) -> ModelPlan:
    """Find the model and everything a plan needs of it. Raises ConfigError where it cannot be used."""
    if model.name == TINY:
        return _describe(model, "builtin", None, _tiny(runs_dir))
    folder = Path(model.name)
    if folder.is_dir():
        return _describe(model, "folder", None, folder)
    if not is_on_hub(model.name):
        what = f"there is no {model.name}"
        raise ConfigError(Problem("model.name", what, f"give a Hub id, a model's folder, or {TINY}"))
    commit, weight_bytes = hub.model_commit(model.name, model.revision)
    return _describe(model, "hub", commit, hub.fetch_model(model.name, commit, weights=False), weight_bytes)


def is_on_hub(name: str) -> bool:
    """Whether a name is a Hub id, and nothing on this machine."""
    named_here = Path(name).is_absolute() or name.startswith((".", "~", "builtin:")) or name.count("/") > 1
    return not (named_here or os.path.isdir(name))  # noqa: PTH112  # which is False, too, of a name that is too long


def public_name(plan: ModelPlan) -> str:
    """What others call a model: a folder of this machine by its last part."""
    return Path(plan.name).name if plan.kind == "folder" else plan.name


def fetch(plan: ModelPlan) -> Path:
    """The folder with the weights too; downloads a Hub model into the local cache."""
    if plan.kind == "hub":
        assert plan.revision is not None
        return hub.fetch_model(plan.name, plan.revision, weights=True, code=plan.code)
    return Path(plan.folder)


def _tiny(runs_dir: Path) -> Path:
    """Build the built-in model once for this code and keep it."""
    from smollm3_ft.builtin import tiny

    here = Path(tiny.__file__).parent
    sources = [p for p in here.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    mark = files.digest_of(sources)
    folder = runs_dir / ".models" / f"tiny-{mark[:12]}"
    if records.read(folder / records.RECORD, mark, folder) is None:
        with locks.hold(runs_dir, f".models-{mark[:12]}", wait=True):
            if records.read(folder / records.RECORD, mark, folder) is None:
                partial = folder.with_name(f".partial-{folder.name}")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                tiny.build(partial)
                records.write(partial / records.RECORD, mark, {}, partial)
                files.move_folder(partial, folder)
    return folder


def _describe(
    model: Model,
    kind: Literal["builtin", "folder", "hub"],
    commit: str | None,
    folder: Path,
    weight_bytes: int | None = None,
) -> ModelPlan:
    settings = _settings(model.name, folder)
    code = _runs_code(model, settings)
    weights = sorted(folder.glob("*.safetensors"))
    if weight_bytes is None:
        if not weights:
            raise ConfigError(Problem("model.name", f"{folder} has no safetensors weights", "name a model that has"))
        weight_bytes = sum(path.stat().st_size for path in weights)
    identity = [commit if commit else files.digest_of(weights)]
    if code:
        identity.append(commit or files.digest_of(folder.rglob("*.py")))  # a commit's code is fetched later
    stored = str(settings.get("dtype") or settings.get("torch_dtype") or "float32")
    chat_digest = chat.load(folder).digest
    hidden, heads = int(settings["hidden_size"]), int(settings["num_attention_heads"])
    return ModelPlan(
        name=model.name,
        kind=kind,
        revision=commit,
        folder=str(folder),
        digest=files.digest([*identity, settings, chat_digest]),
        chat_digest=chat_digest,
        parameters=weight_bytes // BYTES.get(stored, 4),
        layers=int(settings["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(settings.get("num_key_value_heads") or heads),
        head_size=int(settings.get("head_dim") or hidden // heads),
        intermediate=int(settings["intermediate_size"]),
        tied=bool(settings.get("tie_word_embeddings", True)),
        vocabulary=int(settings["vocab_size"]),
        context=int(settings["max_position_embeddings"]),
        code=code,
    )


def _runs_code(model: Model, settings: dict[str, Any]) -> bool:
    """Whether the model is one of its own repository's code, and that may be run. Raises ConfigError where it would
    have to be and may not, or where nobody knows such a model."""
    has_code = "AutoModelForCausalLM" in (settings.get("auto_map") or {})
    if has_code and model.trust_remote_code:
        return True
    kind, found = settings.get("model_type"), importlib.util.find_spec("transformers")
    assert found is not None
    assert found.submodule_search_locations is not None
    names = Path(found.submodule_search_locations[0]) / "models" / "auto"  # read: it is imported with torch alone
    if any(f'"{kind}"' in path.read_text(encoding="utf-8") for path in names.glob("*.py")):
        return False
    if has_code:
        what = f"{model.name} is a model of its own code"
        remedy = "look at that code, and set it to true; SMOLLM3_FT_ALLOW_REMOTE_CODE=1 permits it"
        raise ConfigError(Problem("model.trust_remote_code", what, remedy))
    raise ConfigError(Problem("model.name", f"transformers has no model of the kind {kind}", "name a SmolLM3"))


def _settings(name: str, folder: Path) -> dict[str, Any]:
    try:
        settings = files.read_json(folder / "config.json")
    except (OSError, json.JSONDecodeError):
        raise ConfigError(Problem("model.name", f"{folder} has no readable config.json", "name a model")) from None
    needed = (
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    )
    if not all(isinstance(settings.get(key), int) for key in needed) or "CausalLM" not in str(
        settings.get("architectures")
    ):
        raise ConfigError(Problem("model.name", f"{name} is no language model of one decoder", "name a SmolLM3"))
    return settings
