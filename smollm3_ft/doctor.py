"""Whether this machine can do what it is here for: each check a finding, and what to do about it.

What is merely absent (a GPU, a token, a server) is told with what that means. What is there and cannot work is a fault.
No finding holds a token, nor a part of one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import pynvml
from packaging.requirements import Requirement

from smollm3_ft import adapters, devices, disk, files, identity, pages, predictions
from smollm3_ft.config import Config, Train
from smollm3_ft.devices import ROOM, Device
from smollm3_ft.models import ModelPlan
from smollm3_ft.predictions import Micro

Status = Literal["ok", "warning", "fault"]
SECONDS = 8.0  # for all checks together: they look at the same time
LEAST_DISK = 2**28  # bytes: less, and not even the demo ends
SLOW_DISK = 1e8  # bytes a second
DRIVERS = {11: 450, 12: 525, 13: 580}  # the oldest NVIDIA driver that runs programs of each CUDA, all its minors
AMPERE = (8, 0)  # the first cards that compute in bfloat16, which the variable-length attention kernel needs too
PYTHON = (3, 11)
LONGEST = 65536  # tokens that SmolLM3-3B reads
SHORTEST = 512
NAMES = {"none": "full", "lora": "LoRA", "qlora": "QLoRA"}
SETUP = "make setup"
GPU_EXTRAS = "make setup EXTRAS=gpu"
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


class Finding(NamedTuple):
    """What a check found, in a line; the remedy where there is something to do."""

    status: Status
    detail: str
    remedy: str = ""


class Driver(NamedTuple):
    """The NVIDIA driver: its version, the CUDA that it speaks, and the compute capability of each card it shows us."""

    version: str
    cuda: tuple[int, int]
    cards: tuple[tuple[str, tuple[int, int]], ...]


Look = Callable[[], Finding]


def examine(checks: Mapping[str, Look], seconds: float = SECONDS) -> dict[str, Finding]:
    """Every check's finding, in their order. They look at the same time; one that fails, or hangs, harms no other."""
    found: dict[str, Finding] = {}

    def work(name: str, look: Look) -> None:
        try:
            found[name] = look()
        except Exception as error:  # noqa: BLE001  # the border; the error's text may hold what was sent
            found[name] = Finding("fault", f"the check itself failed ({type(error).__name__})", "report it as a bug")

    threads = {name: threading.Thread(target=work, args=(name, look), daemon=True) for name, look in checks.items()}
    deadline = time.monotonic() + seconds
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    late = Finding("fault", f"no answer within {seconds:g} s", "check the network and the address, and try again")
    return {name: found.get(name, late) for name in checks}


def of_this_machine(runs_dir: Path) -> dict[str, Look]:
    """The checks that ask nobody."""
    return {
        "python": python,
        "packages": packages,
        "torch": torch_and_driver,
        "memory": memory,
        "kernels": kernels,
        "disk": lambda: room(runs_dir),
    }


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return Finding(
            "fault", f"Python {version}, this needs {wanted}", f"rm -r .venv; make setup PYTHON=python{wanted}"
        )
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


def torch_and_driver() -> Finding:
    """Whether torch can use the GPU that is here, by the versions of both; neither is started."""
    version, cuda, driver = importlib.metadata.version("torch"), torch_cuda(), nvidia_driver()
    if cuda is None:
        if driver is None or not driver.cards:
            return Finding("ok", f"torch {version}, built for the CPU; no NVIDIA GPU here")
        what = f"torch {version} is built for the CPU, and here is {driver.cards[0][0]}"
        remedy = f"pip install --force-reinstall torch=={version.split('+')[0]}, of a build for CUDA"
        return Finding("warning", what, remedy)
    built = f"torch {version}, built for CUDA {cuda}"
    if driver is None:
        return Finding("warning", f"{built}, and no NVIDIA driver answers: it trains on the CPU", "install the driver")
    if not driver.cards:
        remedy = "see CUDA_VISIBLE_DEVICES, and nvidia-smi"
        return Finding("warning", f"{built}; driver {driver.version} shows no GPU: it trains on the CPU", remedy)
    major = int(cuda.split(".")[0])
    if driver.cuda[0] < major:
        speaks = ".".join(map(str, driver.cuda))
        needed = f"driver {DRIVERS[major]} or newer" if major in DRIVERS else f"a driver for CUDA {major}"
        what = f"{built}, needs {needed}; driver {driver.version} speaks CUDA {speaks}"
        remedy = f"update the NVIDIA driver, or install torch built for CUDA {driver.cuda[0]}"
        return Finding("fault", what, remedy)
    number = f"{len(driver.cards)} × " if len(driver.cards) > 1 else ""
    return Finding("ok", f"{built}; driver {driver.version}; {number}{driver.cards[0][0]}")


def torch_cuda() -> str | None:
    """The CUDA that torch is built for; None for the CPU alone. Read in its files: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def nvidia_driver() -> Driver | None:
    """The NVIDIA driver of this machine; None where none answers."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        version, number = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        with devices.driver() as handles:
            cards = tuple(
                (str(pynvml.nvmlDeviceGetName(one)), tuple(pynvml.nvmlDeviceGetCudaComputeCapability(one)))
                for one in handles
            )
        return Driver(version, (number // 1000, number % 1000 // 10), cards)
    finally:
        pynvml.nvmlShutdown()


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


def kernels() -> Finding:
    """What training would choose: for attention, for norms and gates, and for weights in four bits."""
    device = devices.detect()
    driver = nvidia_driver() if device.kind == "cuda" else None
    card = driver.cards[0][1] if driver and driver.cards else None
    varlen = card is not None and card >= AMPERE
    fused, quantizes = devices.has_fused_kernels(), adapters.can_quantize()
    chosen = [
        f"attention by torch's {'variable-length kernel' if varlen else 'own, documents of like length together'}",
        f"norms and gates {'fused (liger-kernel)' if fused and card else 'by torch'}",
        f"QLoRA {'by bitsandbytes' if quantizes else 'cannot run (no bitsandbytes)'}",
    ]
    what = "; ".join(chosen)
    if card is not None and not varlen:
        return Finding("warning", f"{what}: the card has no bfloat16", "use one of NVIDIA's Ampere generation or newer")
    if card is not None and not (fused and quantizes):
        return Finding("warning", what, GPU_EXTRAS)
    return Finding("ok", what)


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
    rest = "full fine-tuning" if free >= full else f"LoRA, not for full fine-tuning ({files.gib(full)})"
    what += f": room for SmolLM3-3B, {rest}"
    if speed < SLOW_DISK:
        saving = pages.duration(predictions.trained_parameters(Config(), SMOLLM3) * 12 / speed)
        return Finding("warning", f"{what}; a full checkpoint takes {saving}", "name a folder on a faster disk")
    return Finding("ok", what)


def stored(adapter: str) -> int:
    """Bytes that a run of SmolLM3-3B leaves on the disk, at its fullest: checkpoints and the model."""
    config = Config(train=Train.model_validate({"adapter": adapter}))
    checkpoint = predictions.trained_parameters(config, SMOLLM3) * 12
    return checkpoint * (config.train.save_total_limit + 1) + 2 * SMOLLM3.parameters
