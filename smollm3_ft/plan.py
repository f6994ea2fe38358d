"""Config → Plan: revisions pinned, all checked that can be checked, and an estimate, before anything is spent."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from smollm3_ft import (
    adapters,
    chat,
    devices,
    disk,
    documents,
    harness,
    models,
    packing,
    predictions,
    preparing,
    probes,
    settling,
    sources,
    variants,
)
from smollm3_ft.config import Config, pool_of
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.models import ModelPlan
from smollm3_ft.reading import Block
from smollm3_ft.sources import SourcePlan

SAMPLED_ROWS = 200


class Estimate(BaseModel):
    """What a run will take, from a sample of the rows; None where only preparation can tell."""

    model_config = ConfigDict(frozen=True)

    rows: int | None
    tokens: int | None
    settings: settling.Settings | None
    predicted: settling.Predicted | None
    device: str


class Plan(BaseModel):
    """What a run starts from, pinned, and what it is expected to take."""

    model_config = ConfigDict(frozen=True)

    model: ModelPlan
    sources: tuple[SourcePlan, ...]
    estimate: Estimate


def make(config: Config, revisions: Mapping[str, str] | None = None) -> Plan:
    """Pin and check; datasets to their commits in `revisions`, or else to those of now.

    Raises ConfigError with what to do; trouble on the network passes through, to be tried again.
    """
    from smollm3_ft import card, gate  # they read runs, whose records hold plans

    runs_dir = Path(config.runs_dir)
    check_writable(runs_dir)
    card.check_own(runs_dir)
    if pool_of(config) is None:
        adapters.check(config)
        harness.check(config)
    pinned_sources = sources.locate(config.data, runs_dir, revisions)
    model = models.pin(config.model, runs_dir)
    if config.data.max_length > model.context:
        what = f"{config.data.max_length} tokens are more than {model.name} reads ({model.context})"
        raise ConfigError(Problem("data.max_length", what, f"set it to at most {model.context}"))
    if pool_of(config) is None:
        variants.check(config.publish.quantize or (), model)
    gate.other(config, Path(model.folder))
    probes.made(config, Path(model.folder))
    plan = Plan(model=model, sources=pinned_sources, estimate=_estimate(config, model, pinned_sources))
    if plan.estimate.predicted is not None:
        disk.check_room(runs_dir, plan.estimate.predicted.disk_bytes)
    return plan


def check_writable(runs_dir: Path) -> None:
    """Raise ConfigError where runs cannot be kept. Makes the folder."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs_dir) as file:
            file.write(bytes(4096))
    except OSError as error:
        what = f"{runs_dir} cannot be written to ({error.strerror})"
        raise ConfigError(Problem("runs_dir", what, "name a folder that can, with room")) from None


def _estimate(config: Config, model: ModelPlan, pinned: tuple[SourcePlan, ...]) -> Estimate:
    pool = pool_of(config)
    device = devices.detect()
    if pool is not None:  # whose workers may be other machines
        device = device._replace(name=f"one of pool {pool}")
    if any(source.kind == "hub" for source in pinned):
        return Estimate(rows=None, tokens=None, settings=None, predicted=None, device=device.name)
    preparation = documents.begin(config.data, config.train.method, chat.load(Path(model.folder)), fast=False)
    rows = kept = tokens = 0
    sampled: list[int] = []
    for index, source in enumerate(pinned):
        held_out = sum(sources.count(source, split) for split in sources.HELD_OUT)
        training = sources.count(source, "train")
        if training == 0:
            raise ConfigError(Problem("data.source", f"{source.source} has no rows", "name a source that has"))
        rows += training + held_out
        shares = sum(share for share in (config.data.validation, config.data.test) if isinstance(share, float))
        trained = training if held_out else int(training * (1 - shares))
        lengths = _sample(preparation, pinned, index)
        sampled += lengths
        trained = min(trained, config.data.sample or trained)
        kept += trained
        tokens += int(trained * sum(lengths) / max(1, len(lengths)))
    if not sampled or pool is not None:
        return Estimate(rows=rows, tokens=tokens or None, settings=None, predicted=None, device=device.name)
    packs = config.data.packing and config.train.method == "sft"
    packed = len(packing.pack(np.array(sampled), config.data.max_length)) if packs else len(sampled)
    longest = config.data.max_length if packs else max(sampled)
    work = predictions.Work(max(1, round(packed * kept / len(sampled))), tokens, longest)
    config = adapters.settled(config, work, model, device)
    settings = settling.settle(config, work, model, device)
    predicted = settling.predict(config, settings, work, model, device)
    return Estimate(rows=rows, tokens=tokens, settings=settings, predicted=predicted, device=device.name)


def _sample(work: documents.Work, pinned: tuple[SourcePlan, ...], index: int) -> list[int]:
    """Token counts of the first usable rows of each training file: of each document, or of a pair's two together."""
    lengths: list[int] = []
    for name in pinned[index].splits.get("train", ()):
        one = pinned[index].model_copy(update={"splits": {"train": (name,)}})
        rows = list(itertools.islice(sources.read(one, "train"), SAMPLED_ROWS))
        block = Block(name, 1, rows)
        done = preparing.prepare(work, pinned, preparing.Task(block, index, 0, None))
        tokens = iter(done.lengths.tolist())
        if work.method == "sft":
            lengths += tokens
        else:
            lengths += [sum(itertools.islice(tokens, count)) for count in done.parts.tolist()]
    return lengths


def markdown(plan: Plan, from_environment: dict[str, str]) -> str:
    """The plan as people read it."""
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts(plan, from_environment)]
    return "\n".join(lines)


def facts(plan: Plan, from_environment: dict[str, str]) -> list[tuple[str, str]]:
    """Name and value of each line of the plan; estimates say that they are."""
    model, estimate = plan.model, plan.estimate
    found = [("model", f"{model.name}{f' at {model.revision[:12]}' if model.revision else ''}")]
    found.append(("parameters", f"{model.parameters:,}"))
    for source in plan.sources:
        pinned = f" at {source.revision[:12]}" if source.revision else f" ({source.digest[:12]})"
        found.append(("source", source.source + (f" / {source.config}" if source.config else "") + pinned))
    found.append(("device", estimate.device))
    if estimate.settings is None or estimate.predicted is None:
        found.append(("estimate", "after preparation, which counts the rows and tokens"))
    else:
        found += [
            ("rows", f"{estimate.rows:,}"),
            ("tokens an epoch", f"about {estimate.tokens:,}, from a sample"),
            *settling.facts(estimate.settings, estimate.predicted),
        ]
    found += [("from the environment", f"{key} ({name})") for key, name in from_environment.items()]
    return found
