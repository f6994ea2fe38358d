"""Whether this machine can do what it is here for: each check a finding, and what to do about it.

What is merely absent (a GPU, a token, a server) is told with what that means. What is there and cannot work is a fault.
No finding holds a token, nor a part of one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from smollm3_ft import devices, disk, files, identity, layers, nvidia, pages, predictions, resolve
from smollm3_ft.config import Config, Train
from smollm3_ft.devices import ROOM, Device
from smollm3_ft.errors import ConfigError
from smollm3_ft.findings import Finding, Look
from smollm3_ft.models import ModelPlan
from smollm3_ft.predictions import Micro

LEAST_DISK = 2**28  # bytes: less, and not even the demo ends
SLOW_DISK = 1e8  # bytes a second
LONGEST = 65536  # tokens that SmolLM3-3B reads
SHORTEST = 512
NAMES = {"none": "full", "lora": "LoRA", "qlora": "QLoRA"}
SETUP = "make setup"
SMOLLM3 = ModelPlan(
    name="HuggingFaceTB/SmolLM3-3B",
    kind="hub",
    revision=None,
    folder="",
    digest="",
    chat_digest="",
    parameters=3_075_098_624,
    layers=36,
    hidden=2048,
    heads=16,
    kv_heads=4,
    head_size=128,
    intermediate=11008,
    tied=True,
    vocabulary=128_256,
    context=LONGEST,
)


def of_this_machine(runs_dir: Path) -> dict[str, Look]:
    """The checks that ask nobody."""
    return {
        "python": python,
        "packages": packages,
        "torch": nvidia.torch_and_driver,
        "memory": memory,
        "kernels": nvidia.kernels,
        "disk": lambda: room(runs_dir),
        "cache": cache,
    }


def python() -> Finding:
    version, wanted = platform.python_version(), importlib.metadata.metadata("smollm3-ft")["Requires-Python"]
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("fault", f"Python {version}, this needs {wanted}", f"rm -r .venv; {SETUP} PYTHON=python3.11")
    return Finding("ok", f"Python {version} in {sys.prefix}")


def packages() -> Finding:
    """The installed packages, against what the project requires and what its lock pins."""
    broken = sorted(unfit())
    if broken:
        return Finding("fault", f"needed otherwise: {', '.join(broken)}", SETUP)
    departures = identity.departures()
    if departures:
        return Finding(
            "warning", f"not as locked: {', '.join(departures)}", f"{SETUP}, for results that can be repeated"
        )
    return Finding("ok", f"{len(identity.pins())} are locked, and none that is installed departs from it")


def variables() -> Finding:
    """Which variables give keys of a configuration, and what is wrong with their values."""
    try:
        known = resolve.resolve({}, os.environ).from_environment
    except ConfigError as error:
        of_variables = [one for one in error.problems if any(name in one.where for name in layers.ENVIRONMENT)]
        wrong = [one for one in of_variables if not one.where.startswith("monitor.trackio")]  # that has its own line
        if wrong:
            remedies = dict.fromkeys(one.remedy for one in wrong)
            return Finding("fault", "; ".join(f"{one.where}: {one.what}" for one in wrong), "; ".join(remedies))
        known = {key: name for key, (name, _) in layers.from_environment(os.environ).items()}
    told = ", ".join(f"{name} gives {key}" for key, name in known.items())
    return Finding("ok", told or "none gives a key of the configuration")


def unfit() -> Iterator[str]:
    """What the project requires and is not there, or in another version."""
    for line in importlib.metadata.requires("smollm3-ft") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing ({wanted})"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} ({wanted})"


def memory() -> Finding:
    """What of SmolLM3-3B can be trained in the memory here, and at which length."""
    device = devices.detect()
    has = f"{device.name}, {files.gib(device.memory)}{' available' if device.kind == 'cpu' else ''}"
    lengths = {adapter: longest(adapter, device) for adapter in NAMES}
    fitting = [f"{NAMES[adapter]} to {tokens:,} tokens" for adapter, tokens in lengths.items() if tokens]
    if not fitting:
        least = files.gib(needed("qlora", SHORTEST, device))
        what = f"{has}: less than SmolLM3-3B takes, even with QLoRA ({least})"
        return Finding("warning", what, "train builtin:tiny here, and SmolLM3-3B on a machine with more")
    what = f"{has}: of SmolLM3-3B fit {', '.join(fitting)}"
    if device.kind == "cpu":
        return Finding("warning", f"{what}, but a CPU takes days for it", "use a GPU for more than builtin:tiny")
    return Finding("ok", what)


def longest(adapter: str, device: Device) -> int | None:
    """The longest sequence, a power of two of tokens, with which SmolLM3-3B fits; None where not even a short one."""
    length = LONGEST
    while length >= SHORTEST:
        if needed(adapter, length, device) <= ROOM * device.memory:
            return length
        length //= 2
    return None


def needed(adapter: str, length: int, device: Device) -> int:
    """Bytes that training SmolLM3-3B takes with one sequence of `length` tokens at a time."""
    config = Config(train=Train.model_validate({"adapter": adapter}))
    return predictions.memory(config, SMOLLM3, device, Micro(length, checkpointing=1, accumulates=True))


def room(folder: Path) -> Finding:
    """What is free where runs are kept, how fast it is written, and what of SmolLM3-3B finds room."""
    place = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = devices.free_disk(place)
    remedy = "make room, or name another folder with runs_dir=FOLDER"
    if free < LEAST_DISK:
        return Finding("fault", f"the disk is full: {files.gib(free)} free in {place}", remedy)
    try:
        speed = disk.speed(place)
    except OSError as error:
        why = "takes no more: a quota may be used up" if disk.is_full(error) else f"cannot be written to ({error})"
        return Finding("fault", f"{place} {why}", remedy)
    what = f"{files.gib(free)} free in {place}, written at {files.gib(speed)}/s"
    lora, full = stored("lora"), stored("none")
    if free < lora:
        return Finding("warning", f"{what}: less than SmolLM3-3B takes, even with LoRA ({files.gib(lora)})", remedy)
    rest = "full fine-tuning of SmolLM3-3B"
    if free < full:
        rest = f"LoRA on SmolLM3-3B, but not for full fine-tuning ({files.gib(full)})"
    what += f"; room for {rest}"
    if speed < SLOW_DISK:
        saving = pages.duration(predictions.trained_parameters(Config(), SMOLLM3) * 12 / speed)
        return Finding("warning", f"{what}; a full checkpoint takes {saving}", "name a folder on a faster disk")
    return Finding("ok", what)


def cache() -> Finding:
    """Where the Hub's models are downloaded to, and whether SmolLM3-3B finds room there."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    place = next(one for one in (folder, *folder.parents) if one.is_dir())
    free, needed = devices.free_disk(place), 2 * SMOLLM3.parameters
    what = f"models are downloaded to {folder}, {files.gib(free)} free"
    if not os.access(place, os.W_OK):
        return Finding("fault", f"{what}, which cannot be written to", "name another folder in HF_HOME")
    if free < needed and not (folder / f"models--{SMOLLM3.name.replace('/', '--')}").is_dir():
        return Finding("warning", f"{what}: SmolLM3-3B takes {files.gib(needed)}", "make room, or set HF_HOME")
    return Finding("ok", what)


def stored(adapter: str) -> int:
    """Bytes that a run of SmolLM3-3B leaves on the disk, at its fullest: checkpoints and the model."""
    config = Config(train=Train.model_validate({"adapter": adapter}))
    checkpoint = predictions.trained_parameters(config, SMOLLM3) * 12
    return checkpoint * (config.train.save_total_limit + 1) + 2 * SMOLLM3.parameters
