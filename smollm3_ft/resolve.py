"""From a recipe, the environment, a file and `key=value` words to one configuration in which every key has a value.

Precedence: recipe < environment < file < `key=value`. A null leaves the value below it; `none` switches a key off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smollm3_ft import gate, harness, layers, permitted, probes, redaction
from smollm3_ft.config import Config, tracker_of
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.layers import OF_A_SOURCE, defaults, flatten, merged, nested, without_nulls
from smollm3_ft.unbuilt import unbuilt
from smollm3_ft.validation import validate


class Resolved(NamedTuple):
    """A configuration with every key set, and which of its keys came from which environment variable."""

    config: Config
    from_environment: dict[str, str]


def resolve(
    given: Config | Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    file: Mapping[str, Any] | None = None,
) -> Resolved:
    """Fill in what was not given. Raises ConfigError with a problem a line."""
    explicit = given.model_dump(mode="json") if isinstance(given, Config) else dict(given)
    file = file or {}
    known = layers.from_environment(environment)
    recipe = explicit.get("recipe") or file.get("recipe") or "demo"
    environment_layer = nested({key: value for key, (_, value) in known.items()})
    held = [one for layer in (environment_layer, file, explicit) for one in redaction.problems(layer, environment)]
    if held:  # before anything is said of a value
        raise ConfigError(
            *(_with_variable(problem, {key: name for key, (name, _) in known.items()}) for problem in held)
        )
    given_layers = [layers.recipe(str(recipe)), environment_layer, file, explicit]
    given_keys = {key for layer in (file, explicit) for key, _ in flatten(without_nulls(layer))}
    from_environment = {key: name for key, (name, _) in known.items() if key not in given_keys}
    try:
        config = validate(merged(defaults(Config), *_each_with_its_source(given_layers)))
        problems = [*contradictions(config), *gate.problems(config)]
        config = _with_absolute_places(_with_method(config))
        problems += permitted.refused(config, environment)
        problems += [one for one in unbuilt(config) if one.where not in {problem.where for problem in problems}]
    except ConfigError as error:
        problems = list(error.problems)
    if problems:
        raise ConfigError(*(_with_variable(problem, from_environment) for problem in problems))
    return Resolved(config, from_environment)


def _each_with_its_source(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The layers without nulls; what belongs to a source goes when a layer above names another one."""
    kept = [without_nulls(layer) for layer in given]
    for index, layer in enumerate(kept):
        data = layer.get("data")
        above = [other.get("data") for other in kept[index + 1 :]]
        if isinstance(data, Mapping) and any(isinstance(one, Mapping) and "source" in one for one in above):
            kept[index] = {**layer, "data": {key: value for key, value in data.items() if key not in OF_A_SOURCE}}
    return kept


def _with_variable(problem: Problem, from_environment: Mapping[str, str]) -> Problem:
    """A value that nobody typed is named by the variable that gave it, too."""
    name = from_environment.get(problem.where)
    return problem._replace(where=f"{problem.where} (from {name})") if name else problem


def contradictions(config: Config) -> Iterator[Problem]:
    """A problem for each pair of values that do not go together."""
    train, data = config.train, config.data
    sizes = (train.effective_batch_size, train.batch_size, train.gradient_accumulation_steps)
    if all(isinstance(size, int) for size in sizes):
        effective, batch, accumulation = (int(size) for size in sizes)
        if effective != batch * accumulation * config.compute.num_processes:
            yield Problem(
                "train.effective_batch_size",
                f"{effective} is not batch_size {batch} × gradient_accumulation_steps {accumulation}"
                f" × num_processes {config.compute.num_processes}",
                "leave one of them auto",
            )
    if tracker_of(config) is None:
        secret = "@" in config.monitor.trackio or "?" in config.monitor.trackio
        what = "a URL with a password or a token in it" if secret else f"{config.monitor.trackio} is no place"
        remedy = "use off, local, http(s)://server or owner/space"
        remedy = f"give the token in TRACKIO_WRITE_TOKEN, and {remedy}" if secret else remedy
        yield Problem("monitor.trackio", what, remedy)
    if config.compute.strategy == "fsdp2" and config.compute.num_processes == 1:
        what = "fsdp2 spreads a model over processes, and there is one"
        yield Problem("compute.strategy", what, "leave it auto, or raise compute.num_processes")
    for key in ("loss", "beta"):
        if train.method != "dpo" and getattr(train, key) is not None:
            remedy = f"leave it out, or train.{key}=none where a recipe has it"
            yield Problem(f"train.{key}", "belongs to train.method=dpo", remedy)
    if config.publish.adapter != "merge" and train.adapter == "none":
        what = f"{config.publish.adapter} is for an adapter, and train.adapter is none"
        yield Problem("publish.adapter", what, "use merge, or train.adapter=lora")
    if config.publish.adapter == "keep" and config.publish.quantize is not None:
        yield Problem("publish.quantize", "an adapter alone has no quantized variants", "use publish.adapter=both")
    if config.publish.adapter == "keep" and config.publish.demo_space is not None:
        yield Problem("publish.demo_space", "an adapter alone is no model to chat with", "use publish.adapter=both")
    if config.monitor.dataset == "off":
        yield Problem("monitor.dataset", "off is no dataset", "use none")
    if config.publish.demo_space is not None and config.publish.target != "hub":
        what = "a Space shows a model that is on the Hub"
        yield Problem("publish.demo_space", what, "use publish.target=hub, or leave it out")
    if train.early_stopping_patience is not None and data.validation is None:
        yield Problem("train.early_stopping_patience", "needs validation rows", "give data.validation")
    if isinstance(data.source, tuple):
        for key in ("config", "split", "columns", "format"):
            if getattr(data, key) not in (None, "auto"):
                yield Problem(f"data.{key}", "is for one source", "give it inside data.source's list")
        if not data.source:
            yield Problem("data.source", "is an empty list", "name at least one source")


def _with_method(config: Config) -> Config:
    """What a method needs and was not given."""
    if config.train.method != "dpo":
        return config
    usual = {"loss": "sigmoid", "beta": 0.1}  # as in the paper
    missing = {key: value for key, value in usual.items() if getattr(config.train, key) is None}
    return config.model_copy(update={"train": config.train.model_copy(update=missing)})


def _with_absolute_places(config: Config) -> Config:
    """Folders and files named from where the command was typed, so that any other process finds them."""
    data, model, evaluate = config.data, config.model, config.evaluate
    named: dict[str, Any] = {key.partition(".")[2]: _there(place) for key, place in probes.places(config)}
    if evaluate.harness is not None:
        named["harness"] = tuple(_there(task) if harness.is_file(task) else task for task in evaluate.harness)
    if isinstance(data.source, str):
        sources: Any = _absolute(data.source)
    else:
        sources = tuple(s.model_copy(update={"source": _absolute(s.source)}) for s in data.source)
    return config.model_copy(
        update={
            "runs_dir": str(Path(config.runs_dir).expanduser().absolute()),
            "data": data.model_copy(update={"source": sources}),
            "model": model.model_copy(update={"name": _absolute(model.name)}),
            "evaluate": evaluate.model_copy(update=named),
        }
    )


def _there(place: str) -> str:
    return str(Path(place).expanduser().absolute())


def _absolute(place: str) -> str:
    path = Path(place).expanduser()
    here = path.exists() or any(character in place for character in "*?[")
    return str(path.absolute()) if here and not place.startswith("builtin:") else place
