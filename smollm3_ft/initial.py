"""What `smollm3-ft init` finds in a folder, what each choice takes, and the configuration that it writes."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from smollm3_ft import adapters, files, formats, pages, predictions, reading, settling, sources
from smollm3_ft.config import Config
from smollm3_ft.devices import ROOM, Device
from smollm3_ft.errors import ConfigError
from smollm3_ft.formats import BadRow
from smollm3_ft.models import TINY, ModelPlan
from smollm3_ft.predictions import Work
from smollm3_ft.sources import SourcePlan
from smollm3_ft.validation import sections_in

NAMES = {"none": "full", "lora": "LoRA", "qlora": "QLoRA"}
TOO_MUCH = "more than there is here"
FEWEST_STEPS = 250  # of the built-in model, which begins with nothing: with fewer it learns none of a file
LOOKED_AT = 100  # rows, for their format
MOST_FILES = 9
HEAD = """\
# Written by `smollm3-ft init`. What it needs and takes, without spending anything:
#     smollm3-ft plan {file}
# A key that is not here, or has a # before it, is as its recipe has it. docs/reference.md tells of every key.
"""
# Keys that are often changed, shown with the value that they have, or with an example where they have none.
OFTEN = {
    "data": ("columns", "max_length", "over_length", "system_prompt"),
    "train": ("epochs", "learning_rate", "effective_batch_size"),
    "evaluate": ("gate", "prompts"),
    "monitor": ("dataset",),
    "publish": ("private",),
}
EXAMPLES: dict[str, Any] = {
    "data.columns": {"question": "prompt", "answer": "completion"},
    "data.system_prompt": "You are a helpful assistant.",
    "evaluate.gate": {"metric": "loss", "min_improvement": 0.0},
    "evaluate.prompts": ["What is the capital of France?"],
    "monitor.dataset": "owner/trackio-experiments",
}


class Cost(NamedTuple):
    """What a training takes with one adapter: bytes of memory and disk, seconds; or why it cannot be done here."""

    adapter: str
    memory: int
    disk: int | None
    seconds: float | None
    why_not: str = ""


def data_files(folder: Path) -> list[Path]:
    """Files in `folder`, and in `data` below it, that look like rows."""
    places = [path for place in (folder, folder / "data") if place.is_dir() for path in sorted(place.iterdir())]
    return list(itertools.islice(filter(_looks_like_rows, places), MOST_FILES))


def _looks_like_rows(path: Path) -> bool:
    """By its ending; a text may be anything, and of JSON only a list is rows for sure."""
    ending = reading.ending(path)
    if (
        ending not in reading.READABLE
        or path.name.startswith(".")
        or not path.is_file()
        or not os.access(path, os.R_OK)
    ):
        return False
    if ending == ".json":
        with path.open("rb") as file:
            return file.read(100).lstrip().startswith(b"[")
    return not ending.startswith((".txt", ".json.")) and path.stat().st_size > 0


def method(pinned: tuple[SourcePlan, ...]) -> str:
    """`dpo` where the first rows are pairs of a better and a worse answer, else `sft`."""
    for line in itertools.islice((line for one in pinned for line in sources.read(one, "train")), LOOKED_AT):
        if isinstance(line.row, BadRow):
            continue
        try:
            kind = formats.KINDS[formats.detect(line.row)]
        except BadRow:
            continue
        return "dpo" if kind == "pair" else "sft"
    return "sft"


def recipe(model: str, method: str, adapter: str) -> str:
    """The recipe to start from."""
    if model == TINY:
        return "demo"
    return "dpo" if method == "dpo" else {"none": "sft_full", "lora": "sft_lora", "qlora": "sft_qlora"}[adapter]


def steps(config: Config, work: Work) -> int | None:
    """The steps to ask of the built-in model, where the passes of its recipe over so few rows are not enough."""
    batch = config.train.effective_batch_size
    made = math.ceil(work.sequences / (1 if batch == "auto" else batch)) * config.train.epochs
    return FEWEST_STEPS if made < FEWEST_STEPS else None


def costs(config: Config, work: Work | None, model: ModelPlan, device: Device) -> list[Cost]:
    """What full training and each adapter take on the device; without `work` only the memory, of the longest row."""
    found = []
    for adapter in adapters.LARGEST_FIRST:
        one = config.model_copy(update={"train": config.train.model_copy(update={"adapter": adapter})})
        length = work.longest if work else config.data.max_length
        least = predictions.memory(one, model, device, predictions.Micro(length, checkpointing=1))
        found.append(Cost(adapter, least, None, None, _obstacle(one, least, device)))
        if work is None or found[-1].why_not:
            continue
        try:
            settings = settling.settle(one, work, model, device)
        except ConfigError:  # several micro-batches a step take a little more than one
            found[-1] = found[-1]._replace(why_not=TOO_MUCH)
            continue
        predicted = settling.predict(one, settings, work, model, device)
        needed = predicted.memory_bytes
        found[-1] = Cost(adapter, needed, predicted.disk_bytes, predicted.seconds, _obstacle(one, needed, device))
    return found


def _obstacle(config: Config, memory: int, device: Device) -> str:
    """Why a training that takes so many bytes cannot be done here."""
    if memory > ROOM * device.memory:
        return TOO_MUCH
    return "" if config.train.adapter != "qlora" or adapters.can_quantize() else "and `make setup EXTRAS=gpu`"


def told(cost: Cost) -> str:
    """A cost in a line."""
    if cost.why_not:
        return f"needs {files.gib(cost.memory)}; {cost.why_not}"
    time = f", {pages.duration(cost.seconds)}" if cost.seconds is not None else ""
    room = f", {files.gib(cost.disk)} of disk" if cost.disk is not None else ""
    return f"about {files.gib(cost.memory)}{time}{room}"


def written(values: Mapping[str, Any], notes: Mapping[str, str], config: Config, file: str) -> str:
    """The file's text: what was chosen, each key with what it is about, and behind a # what is often changed."""
    lines = [HEAD.format(file=file), f"recipe: {values['recipe']}  # smollm3_ft/recipes/{values['recipe']}.yaml"]
    for section in ("model", "data", "train", "evaluate", "monitor", "publish"):
        chosen = values.get(section, {})
        others = [key for key in OFTEN.get(section, ()) if key not in chosen]
        lines += ["", f"{section}:" if chosen else f"# {section}:"]
        for key, value in chosen.items():
            dotted = f"{section}.{key}"
            lines.append(_line("  ", key, value, notes.get(dotted) or _about(section, key)))
        for key in others:
            value, about = getattr(getattr(config, section), key), _about(section, key)
            if value is None:
                value, about = EXAMPLES[f"{section}.{key}"], f"for example; {about[:1].lower()}{about[1:]}"
            lines.append(_line("  # " if chosen else "#   ", key, value, about))
    return "\n".join(lines) + "\n"


def _line(indent: str, key: str, value: Any, note: str) -> str:
    return f"{indent}{key}: {_scalar(value)}{f'  # {note}' if note else ''}"


def _scalar(value: Any) -> str:
    """A value as YAML has it, in a line."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    dumped = yaml.safe_dump(value, allow_unicode=True, width=10**6, default_style=None).removesuffix("...\n").strip()
    return json.dumps(value, ensure_ascii=False) if "\n" in dumped else dumped


def _about(section: str, key: str) -> str:
    """What the key is, as the reference has it."""
    kind = next(sections_in(Config.model_fields[section].annotation))
    return kind.model_fields[key].description or ""
