"""Which rows of which sources a step of a training was made of, from what the run left: no model is touched."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import tokenizers

from smollm3_ft import chat, data, files, fit, order, shards
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan

TOKENS_BEFORE, TOKENS_READ, CHARACTERS_SHOWN = 40, 300, 200  # around the first trained token


def step(folder: Path, number: int) -> dict[str, Any]:
    """The documents of step `number`, sequence by sequence. Raises ConfigError where that cannot be said."""
    if not (folder / "plan.json").is_file():
        there = "has not come as far as training" if folder.is_dir() else "is not there"
        raise ConfigError(Problem("run", f"{folder} {there}", "`smollm3-ft runs` lists the runs"))
    plan = fit.read(folder / "plan.json")
    if not 1 <= number <= plan.settings.steps:
        what = f"there is no step {number}: {plan.name} has steps 1 to {plan.settings.steps}"
        raise ConfigError(Problem("--step", what, "name one of these"))
    prepared = data.reuse(folder.parent, plan.prepared.fingerprint)
    if prepared is None:
        what = f"the prepared data of {plan.name} is gone from {folder.parent / '.prepared'}"
        raise ConfigError(Problem("run", what, "start it over with --fresh"))
    return {
        "run": plan.name,
        "step": number,
        "epoch": order.epoch_of_step(number, prepared.sequences, plan.settings.effective_batch_size) + 1,
        "sequences": _sequences(plan, Path(prepared.folder), number),
    }


def _sequences(plan: TrainingPlan, folder: Path, number: int) -> list[dict[str, Any]]:
    tokenizer = chat.load(Path(plan.weights)).tokenizer
    places = files.read_json(folder / "places.json")["places"]
    table = shards.read(folder / "train.arrow")
    taken = order.sequences_of_step(plan.config.seed, number, len(table), plan.settings.effective_batch_size)
    found = []
    for index in taken.tolist():
        (sequence,) = table.slice(index, 1).to_pylist()
        documents = list(_documents(sequence, places, tokenizer))
        found.append({"sequence": index, "tokens": len(sequence["input_ids"]), "documents": documents})
    return found


def _documents(sequence: dict[str, Any], places: list[str], tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    found = []
    ends = itertools.accumulate(sequence["lengths"])
    for end, length, place, line in zip(ends, sequence["lengths"], sequence["places"], sequence["lines"], strict=True):
        ids, mask = (sequence[column][end - length : end] for column in ("input_ids", "mask"))
        # A system prompt may be long and the same in every row: the text begins where the first answer is near.
        start = max(0, mask.index(1) - TOKENS_BEFORE)
        said = tokenizer.decode(ids[start : start + TOKENS_READ], skip_special_tokens=True)
        text = ("… " if start else "") + " ".join(said.split())
        found.append(
            {
                "source": places[place],
                "line": line,
                "tokens": length,
                "supervised_tokens": sum(mask),
                "text": text[:CHARACTERS_SHOWN],
            }
        )
    return found
