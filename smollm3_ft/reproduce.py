"""Training the same again: what a run tells others of itself, read back, and the two set beside each other.

`block` is what a model card shows of a run: its configuration with every `auto` settled and every revision pinned,
without what says only where it lies, who watches it and where it goes; and the digests that are to come out again. Of a
value that only its own machine has, others get a name or a digest behind `local:`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from smollm3_ft import files, fit, runs, sources
from smollm3_ft.config import Config
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.layers import defaults, merged, recipe
from smollm3_ft.probes import GENERAL
from smollm3_ft.sources import SourcePlan

COMMAND = "python -m flows.finetune --from"
CARD = "README.md"
LOCAL = "local:"  # before what stands for a value that only its own machine has
SECTIONS = ("recipe", "seed", "model", "data", "train", "evaluate", "compute")
# What others may have settled otherwise, and what bears on the result.
SETTLED = (
    "effective_batch_size",
    "batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "warmup_steps",
    "eval_steps",
)


def block(plan: TrainingPlan, place: str = CARD) -> str:
    """What a trained run is reproduced from, as a fenced block of a card that lies at `place` (a path or a Hub id)."""
    told = {**public(plan), "expected": facts(plan)}
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=120)
    return f"```yaml\n# {COMMAND} {place} trains the same again and compares\n{text}```"


def public(plan: TrainingPlan) -> dict[str, Any]:
    """The configuration that others may read, in sections: no path, no text that somebody wrote, no target."""
    values = _settled(plan)
    model, data, evaluate = values["model"], values["data"], values["evaluate"]
    model.pop("trust_remote_code")
    if plan.model.kind == "folder":
        model["name"] = _local(plan.model.name)
    pinned = _pinned(plan)
    if isinstance(data["source"], str):
        data["source"] = _named(pinned[0])
    else:
        named = zip(data["source"], pinned, strict=True)
        data["source"] = [{**source, "source": _named(plan)} for source, plan in named]
    if data["system_prompt"] != "none" and not plan.config.publish.samples:
        data["system_prompt"] = LOCAL + hashlib.sha256(data["system_prompt"].encode()).hexdigest()[:12]
    evaluate.pop("prompts")
    if evaluate["general"] not in ("none", GENERAL):
        evaluate.pop("general")
    if isinstance(evaluate["gate"], dict):
        evaluate["gate"].pop("not_worse_than", None)
    if isinstance(evaluate["harness"], list):
        evaluate["harness"] = [task for task in evaluate["harness"] if not Path(task).is_absolute()] or "none"
    values["compute"].pop("pool")
    return _without_usual({section: values[section] for section in SECTIONS})


def _without_usual(values: dict[str, Any]) -> dict[str, Any]:
    """Without what bears on no result, and without what is off as its recipe has it anyway."""
    usual = merged(defaults(Config), recipe(values["recipe"]))
    apart = ["save_steps", "save_total_limit", *(["lora"] if values["train"]["adapter"] == "none" else [])]
    values["train"] = {key: value for key, value in values["train"].items() if key not in apart}
    return {
        section: {key: value for key, value in given.items() if not value == usual[section][key] == "none"}
        if isinstance(given, dict)
        else given
        for section, given in values.items()
    }


def facts(plan: TrainingPlan) -> dict[str, dict[str, Any]]:
    """What came of it, as far as it has come: data, plan and result, which are to agree, and what made them."""
    settings, prepared = plan.settings, plan.prepared
    trained = files.read_json_if_there(Path(plan.folder) / fit.TRAINED)
    listed = trained.get("files", {})
    weights = {name: entry["sha256"] for name, entry in listed.items() if name.endswith(".safetensors")}
    found: dict[str, dict[str, Any]] = {
        "data": {
            "digest": prepared.content,
            "rows": prepared.rows,
            "tokens": prepared.tokens,
            "supervised_tokens": prepared.supervised_tokens,
            "sources": {_named(source): source.revision or source.content for source in _pinned(plan)},
        },
        "plan": {
            "model": plan.model.revision or plan.model.digest,
            "steps": settings.steps,
            "tokens": plan.predicted.tokens,
            "processes": settings.processes,
            "strategy": settings.strategy,
        },
        "machine": {"device": plan.device_name, **plan.versions, "code": plan.code, "lock": plan.lock},
    }
    result = {"weights": weights, "final_loss": trained["values"]["final_loss"]} if weights else {}
    return {**found, "result": result}


def _settled(plan: TrainingPlan) -> dict[str, Any]:
    """What a run was told, with what became of `auto` where that bears on the result, and the model's commit."""
    values = plan.config.model_dump(mode="json")
    values["train"] |= {name: getattr(plan.settings, name) for name in SETTLED}
    values["model"]["revision"] = plan.model.revision or "none"
    return values


def _pinned(plan: TrainingPlan) -> tuple[SourcePlan, ...]:
    early = runs.read(Path(plan.folder)).plan
    assert early is not None  # made before anything is prepared
    return early.sources


def _named(source: SourcePlan) -> str:
    return source.source if source.kind == "hub" or source.source in sources.BUILTIN else _local(source.source)


def _local(place: str) -> str:
    return LOCAL + Path(place).name
