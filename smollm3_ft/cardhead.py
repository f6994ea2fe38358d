"""A model card's head: what the Hub itself reads. Licence and language are those of the base model's own card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from smollm3_ft.fit import TrainingPlan
from smollm3_ft.permission import CARD, TAG

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "text-generation"
OF_LICENCE = ("license", "license_name", "license_link")


def made(plan: TrainingPlan, evaluation: Mapping[str, Any], datasets: Mapping[str, str | None]) -> str:
    """The head as YAML, without the lines around it. `datasets` are those of the Hub, each with its commit."""
    from huggingface_hub import ModelCardData

    train, on_hub = plan.config.train, plan.model.kind == "hub"
    is_adapter = train.adapter != "none" and plan.config.publish.adapter == "keep"
    results = _results(evaluation, datasets)
    return (
        ModelCardData(
            base_model=plan.model.name if on_hub else None,
            base_model_relation=("adapter" if is_adapter else "finetune") if on_hub else None,
            library_name="peft" if is_adapter else "transformers",
            pipeline_tag=TASK,
            **licence(plan),
            language=_base_head(plan, "language").get("language"),
            datasets=list(datasets) or None,
            tags=[TAG, train.method, *([train.adapter] if train.adapter != "none" else [])],
            model_name=plan.name if results else None,
            eval_results=results or None,
        )
        .to_yaml()
        .strip()
    )


def licence(plan: TrainingPlan) -> dict[str, Any]:
    """The base model's licence as its card has it, `license`, `license_name` and `license_link`; empty if unknown."""
    found = _base_head(plan, *OF_LICENCE)
    link = found.get("license_link")
    if isinstance(link, str) and "://" not in link and plan.model.kind == "hub":
        from huggingface_hub.constants import ENDPOINT

        found["license_link"] = f"{ENDPOINT}/{plan.model.name}/blob/{plan.model.revision}/{link.removeprefix('./')}"
    return found if "license" in found else {}


def _base_head(plan: TrainingPlan, *keys: str) -> dict[str, Any]:
    """Some keys of the head of the base model's own card: those that are there, and a text or a list."""
    try:
        text = (Path(plan.weights) / CARD).read_text(encoding="utf-8")
        before, head, _ = text.split("---\n", 2)
        value = yaml.safe_load(head) if not before.strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    known = value if isinstance(value, dict) else {}
    return {key: known[key] for key in keys if isinstance(known.get(key), str | list)}


def _results(evaluation: Mapping[str, Any], datasets: Mapping[str, str | None]) -> list[EvalResult]:
    """Each metric of the tuned model, with its interval, and with the base model's beside it."""
    from huggingface_hub import EvalResult

    one = next(iter(datasets)) if len(datasets) == 1 else None
    held_out = {
        "dataset_name": f"held-out rows of {one}" if one else "held-out rows",
        "dataset_type": one or "held-out",
        "dataset_revision": datasets[one] if one else None,
    }
    general = {"dataset_name": "general rows", "dataset_type": "general"}
    found = [
        EvalResult(
            task_type=TASK,
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=round(measured["value"], 6),
            metric_args={
                "interval": [round(measured[end], 6) for end in ("low", "high")],
                "base": round(evaluation["base"][name]["value"], 6),
                "base_interval": [round(evaluation["base"][name][end], 6) for end in ("low", "high")],
            },
            **(general if name == "general_loss" else held_out),
        )
        for name, measured in (evaluation.get("tuned") or {}).items()
    ]
    harness = evaluation.get("harness") or {}
    for task, measured in harness.get("tuned", {}).items():
        base = harness.get("base", {}).get(task, {})
        found += [
            EvalResult(
                task_type=TASK,
                dataset_type=task,
                dataset_name=task,
                metric_type=name,
                metric_value=value,
                metric_args={"base": base[name]} if name in base else None,
            )
            for name, value in measured.items()
            if isinstance(value, int | float) and not name.endswith("_stderr")
        ]
    return found
