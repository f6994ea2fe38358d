"""Training the same again: what a run tells others of itself, read back, and the two set beside each other.

`block` is what a model card shows of a run, and `find` reads: its configuration with every `auto` settled and every
revision pinned, without what says only where it lies, who watches it and where it goes; and the digests that are to
come out again. Of a value that only its own machine has, others get a name or a digest behind `local:`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from smollm3_ft import files, fit, harness, hub, models, runs, sources
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.layers import OF_A_SOURCE, built_recipes, defaults, flatten, merged, recipe
from smollm3_ft.probes import GENERAL
from smollm3_ft.runs import Origin
from smollm3_ft.sources import SourcePlan

COMMAND = "python -m flows.finetune --from"
CARD = "README.md"
BLOCK = re.compile(rf"^```yaml\n# {re.escape(COMMAND)}[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LOCAL = "local:"  # before what stands for a value that only its own machine has
NOT_TAKEN = ("name", "runs_dir", "publish")  # of a run: a second one is published where its own command says
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
    pinned = sources_of(plan)
    if isinstance(data["source"], str):
        data["source"] = _named(pinned[0])
    else:
        named = zip(data["source"], pinned, strict=True)
        data["source"] = [{**source, "source": _named(plan)} for source, plan in named]
    if data["system_prompt"] != "none" and not plan.config.publish.samples:
        data["system_prompt"] = LOCAL + hashlib.sha256(data["system_prompt"].encode()).hexdigest()[:12]
    values["evaluate"] = _without_places(evaluate)
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
            "sources": {_named(source): source.revision or source.content for source in sources_of(plan)},
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


def sources_of(plan: TrainingPlan) -> tuple[SourcePlan, ...]:
    """What a run was trained on, as it was pinned."""
    early = runs.read(Path(plan.folder)).plan
    assert early is not None  # made before anything is prepared
    return early.sources


def _named(source: SourcePlan) -> str:
    return source.source if source.kind == "hub" or source.source in sources.BUILTIN else _local(source.source)


def _local(place: str) -> str:
    return LOCAL + Path(place).name


class Wanted(NamedTuple):
    """What `--from` asks for: the configuration's values, what they are from, and what new runs are called after."""

    values: dict[str, Any]
    origin: Origin
    name: str


def find(place: str, runs_dir: Path, given: Mapping[str, Any]) -> Wanted:
    """The run or the card that `place` names: a run's name or folder, a card or its folder, or a model on the Hub.

    `given` are values that the command says itself, which come before what is found. Raises ConfigError where there is
    nothing to train again, or where a card leaves something to be given.
    """
    folder = runs.find(place, runs_dir)
    if (folder / runs.RECORD).is_file():
        found = _of_run(folder)
    else:
        path = Path(place) / CARD if Path(place).is_dir() else Path(place)
        if path.is_file():
            path = path.absolute()
            holder = path.parent.parent if path.parent.name == "model" else path.parent  # a run's own card
            found = _of_card(path.read_text(encoding="utf-8", errors="replace"), str(path), holder.name, given)
        elif models.is_on_hub(place) and "/" in place:
            found = _of_card(hub.fetch_card(place), place, place.rpartition("/")[2], given)
        else:
            what = f"there is no run, card or model {place}"
            raise ConfigError(Problem("--from", what, "`smollm3-ft runs` lists the runs"))
    asked = dict(flatten(given))
    pinned = "model.name" not in asked or "model.revision" in asked
    other = {} if pinned else {"model": {"revision": "none"}}  # the commit was another model's
    values = {**found.values, "data": _of_its_source(found.values["data"], asked.get("data.source"))}
    return found._replace(values=merged(values, other, given))


def _of_its_source(data: dict[str, Any], given: Any) -> dict[str, Any]:
    """The keys of `data`, without those that belong to its source where another one is given."""
    then = data.get("source")
    if isinstance(then, str) and isinstance(given, str):
        is_the_same = then.startswith(LOCAL) or Path(then).absolute() == Path(given).expanduser().absolute()
    else:
        is_the_same = given is None
    return data if is_the_same else {key: value for key, value in data.items() if key not in OF_A_SOURCE}


def _of_run(folder: Path) -> Wanted:
    run = runs.read(folder)
    if not (folder / fit.TRAINED).is_file():
        what = f"run {run.name} is not trained, so there is nothing to compare with"
        raise ConfigError(Problem("--from", what, "go on with it first, or name another"))
    plan = fit.read(folder / "plan.json")
    values = {key: value for key, value in _settled(plan).items() if key not in NOT_TAKEN}
    commits = {source.source: source.revision for source in sources_of(plan) if source.revision is not None}
    told = {"values": public(plan), "expected": facts(plan)}
    return Wanted(values, Origin(name=run.name, place=str(folder), revisions=commits, **told), run.name)


def _of_card(text: str, place: str, name: str, given: Mapping[str, Any]) -> Wanted:
    """Of a card neither a path is taken, nor where something goes, nor leave to run code."""
    told = read(text, place)
    expected = told.pop("expected")
    asked = dict(flatten(given))
    missing = [problem for problem in _missing(told) if problem.where not in asked]
    if missing:
        raise ConfigError(*missing)
    pinned = expected["data"]["sources"]
    commits = {
        source: str(commit) for source, commit in pinned.items() if _is_public(source) and source not in sources.BUILTIN
    }
    origin = Origin(name=f"the card of {name}", place=place, revisions=commits, values=told, expected=expected)
    return Wanted(told, origin, re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".")[:80] or "card")


def read(text: str, place: str) -> dict[str, Any]:
    """What the block in a card says: the configuration's sections, and `expected`.

    Raises ConfigError where there is none, or where it is damaged.
    """
    found = BLOCK.search(text)
    if found is None:
        what = f"{place} does not say what its model was trained from"
        raise ConfigError(Problem("--from", what, "name a card that smollm3-ft wrote"))
    try:
        told = _parsed(found[1])
        expected = {group: dict(told["expected"][group]) for group in ("data", "plan", "result", "machine")}
        expected["data"]["sources"] = dict(expected["data"]["sources"])
        recipe_named = {name: name for name in built_recipes()}[told["recipe"]]
        known: dict[str, Any] = {"recipe": recipe_named, "seed": told["seed"]}
        known |= {section: dict(told[section]) for section in SECTIONS[2:]}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        what = f"what {place} says of its training is damaged, or of another version"
        raise ConfigError(Problem("--from", what, "name another card, or the run itself")) from None
    known["model"].pop("trust_remote_code", None)
    known["compute"].pop("pool", None)
    known["evaluate"] = _without_places(known["evaluate"])
    return {**known, "expected": expected}


def _parsed(text: str) -> Any:
    """YAML whose keys are text, without aliases: few lines could stand for more than a memory holds, or for themselves.

    Raises ValueError, YAMLError.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ValueError("aliases")
    return json.loads(json.dumps(yaml.safe_load(text)))


def _without_places(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    """How a model is judged, without files and without other runs."""
    kept = {key: evaluate[key] for key in ("samples", "gate", "harness") if key in evaluate}
    if evaluate.get("general") in ("none", GENERAL):
        kept["general"] = evaluate["general"]
    if isinstance(kept.get("gate"), dict):
        kept["gate"] = {key: value for key, value in kept["gate"].items() if key != "not_worse_than"}
    if isinstance(kept.get("harness"), list):
        kept["harness"] = [task for task in map(str, kept["harness"]) if not harness.is_file(task)] or "none"
    return kept


def _missing(told: Mapping[str, Any]) -> Iterator[Problem]:
    """What only the machine has on which a card's model was trained."""
    model, data = str(told["model"].get("name")), told["data"]
    if model != models.TINY and not (_is_public(model) and models.is_on_hub(model)):
        yield _to_give("model.name", model, "FOLDER")
    listed = data.get("source")
    for one in listed if isinstance(listed, list) else [listed]:
        place = str(one.get("source") if isinstance(one, dict) else one)
        if not (_is_public(place) and (place in sources.BUILTIN or sources.is_on_hub(place))):
            yield _to_give("data.source", place, "FILE")
    if str(data.get("system_prompt", "")).startswith(LOCAL):
        yield Problem("data.system_prompt", "is not in the card", "give data.system_prompt=TEXT")


def _is_public(place: str) -> bool:
    return not place.startswith(LOCAL)


def _to_give(key: str, place: str, what: str) -> Problem:
    return Problem(
        key, f"is {place.removeprefix(LOCAL)} in the card, which only its own machine has", f"give {key}={what}"
    )


def new_name(runs_dir: Path, name: str) -> str:
    """NAME-again, with a number behind it where that is taken."""
    tried = itertools.chain([f"{name}-again"], (f"{name}-again-{number}" for number in itertools.count(2)))
    return next(one for one in tried if not (runs_dir / one).exists())
