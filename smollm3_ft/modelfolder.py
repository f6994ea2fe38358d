"""The folder that is published: the model, and beside it what tells where it came from and what it is worth.

Nothing in it is of this machine: no path, no secret, no address that only it can reach, and no text of a row unless
`publish.samples` says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from smollm3_ft import adapters, card, curvepicture, files, fit, journal, reproduce
from smollm3_ft.errors import PublishError
from smollm3_ft.fit import TrainingPlan

CONFIG, EVALUATION, LEDGER = "finetune.yaml", "evaluation.json", "ledger.json"
OF_AN_ADAPTER = (adapters.CONFIG, "adapter_model.safetensors")  # tokenizer and card are the model's, around it


def complete(plan: TrainingPlan, repo: str | None = None, despite_gate: str | None = None) -> Path:
    """Complete the folder of a trained and evaluated run, and return it: every file of it is to be published.

    It is the model's folder, or the adapter's where `publish.adapter` is keep and there is one. `plan.config` says what
    becomes of an adapter and whether texts are shared; `repo` is the Hub's name of it, where it has one; `despite_gate`
    is why it is published although its gate is against it. Safe to repeat.

    Raises PublishError where the adapter is not there as it was trained, or the user's own card cannot be rendered.
    """
    folder = _with_adapter(plan)
    names = public_names([source["source"] for source in plan.prepared.ledger["sources"]])
    found = files.read_json(Path(plan.folder) / "evaluation.json")
    evaluation = public_evaluation(found, names, plan.config.publish.samples)
    if "quantized" in evaluation:
        there = {kind: one for kind, one in evaluation["quantized"].items() if (folder / kind).is_dir()}
        evaluation["quantized"] = there
    ledger = public_ledger(plan.prepared.ledger, names)
    curves = journal.curves(Path(plan.folder) / "metrics.jsonl", "loss")
    text = card.render(plan, evaluation, ledger, curve=bool(curves), repo=repo, despite_gate=despite_gate)
    if curves:
        files.write(folder / card.CURVE, curvepicture.png(curves))
    files.write_json(folder / EVALUATION, evaluation)
    files.write_json(folder / LEDGER, ledger)
    files.write(folder / CONFIG, yaml.safe_dump(reproduce.public(plan), sort_keys=False, allow_unicode=True, width=120))
    files.write(folder / card.FILE, text)
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether a published folder holds an adapter alone, which is loaded on top of its base model."""
    return (folder / adapters.CONFIG).is_file()


def _with_adapter(plan: TrainingPlan) -> Path:
    """The folder to publish, with the adapter in it where that is asked and there is one."""
    folder, apart = (Path(plan.folder) / name for name in ("model", adapters.FOLDER))
    inside = folder / adapters.FOLDER
    what = plan.config.publish.adapter if plan.config.train.adapter != "none" else "merge"
    if what != "merge":
        trained = files.read_json(Path(plan.folder) / fit.TRAINED)["values"].get("adapter")
        if trained is None or files.digest_of(apart.glob("*.safetensors")) != trained:
            why = f"the adapter of {plan.name} is not in {apart} as it was trained"
            raise PublishError(why, "publish with publish.adapter=merge, or train it anew")
    if what == "both":
        partial = folder / f".partial-{adapters.FOLDER}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for path in sorted(apart.iterdir()):
            if path.name in OF_AN_ADAPTER:
                shutil.copy2(path, partial)
        files.move_folder(partial, inside)
    elif inside.is_dir():
        shutil.rmtree(inside)  # of a former publication
    return apart if what == "keep" else folder


def public_names(sources: Sequence[str]) -> dict[str, str]:
    """What others call each source: a place on this machine by its last part, numbered where two have the same."""
    names: dict[str, str] = {}
    for source in sources:
        name = own = Path(source).name if Path(source).is_absolute() else source
        number = 2
        while name in names.values() and source not in names:
            name, number = f"{own} ({number})", number + 1
        names.setdefault(source, name)
    return names


def public_evaluation(evaluation: Mapping[str, Any], names: Mapping[str, str], samples: bool) -> dict[str, Any]:
    """An evaluation with the sources' public names, and without anybody's text unless `samples`."""
    hidden = {"schema_version"} if samples else {"schema_version", "samples"}
    found = {key: value for key, value in evaluation.items() if key not in hidden}
    if "source" in found.get("by", {}):
        by = found["by"]
        found["by"] = {**by, "source": {names.get(name, name): figures for name, figures in by["source"].items()}}
    return found


def public_ledger(ledger: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A ledger with the sources' public names."""
    found = {key: value for key, value in ledger.items() if key != "schema_version"}
    found["sources"] = [{**source, "source": names[source["source"]]} for source in ledger["sources"]]
    leaks = ledger.get("leaks")
    if leaks:
        first = [{**one, "row": _last(one["row"]), "held_out": _last(one["held_out"])} for one in leaks["first"]]
        found["leaks"] = {**leaks, "first": first}
    return found


def _last(place: str) -> str:
    """A row's place, `file:line`, without this machine's folders."""
    return Path(place).name if Path(place).is_absolute() else place
