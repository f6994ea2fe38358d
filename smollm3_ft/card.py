"""The model card: what was trained, on what, how well it does, and how to use it and make it again."""

from __future__ import annotations

from pathlib import Path

import yaml

from smollm3_ft import files, fit, pages
from smollm3_ft.fit import TrainingPlan

FILE = "README.md"


def render(plan: TrainingPlan) -> str:
    """The model card: a YAML head for the Hub and a text of what was done. What has no value is left out."""
    folder = Path(plan.folder)
    evaluation = files.read_json(folder / "evaluation.json")
    trained = files.read_json(folder / fit.TRAINED)["values"]
    base = plan.model.name if plan.model.kind == "hub" else None
    datasets = [s["source"] for s in plan.prepared.ledger["sources"] if not Path(s["source"]).is_absolute()]
    head = {
        "base_model": base,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "datasets": [name for name in datasets if not name.startswith("builtin:")],
        "tags": ["smollm3-ft", plan.config.train.method],
    }
    return (
        pages.templates(escaped=False)
        .get_template("card.md")
        .render(
            head=yaml.safe_dump({key: value for key, value in head.items() if value}, sort_keys=False).strip(),
            name=plan.name,
            base=plan.model.name if plan.model.kind != "folder" else Path(plan.model.name).name,
            revision=plan.model.revision,
            sources=[{**s, "source": _public(s["source"])} for s in plan.prepared.ledger["sources"]],
            splits=plan.prepared.ledger["splits"],
            metrics=pages.metrics(evaluation),
            rows=evaluation["rows"],
            settings=plan.settings,
            trained=trained,
            method=plan.config.train.method,
            adapter=plan.config.train.adapter,
            device=plan.device_name,
            versions=plan.versions,
            seed=plan.config.seed,
        )
    )


def _public(source: str) -> str:
    """A source without this machine's folders."""
    return Path(source).name if Path(source).is_absolute() else source
