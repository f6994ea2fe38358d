"""The machine: what it trains on and what room it has. Looks at the driver, not at torch, so it answers at once."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
import pynvml


class Device(NamedTuple):
    """What one training process runs on. `memory` in bytes: the GPU's, or the machine's that is available."""

    kind: Literal["cuda", "cpu"]
    name: str
    memory: int
    flops: float  # floating-point operations a second that training can count on, roughly


# Dense bf16 peak of the cards people train on, times what a well-fed run reaches; for a guess of the time.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12, "L4": 121e12, "T4": 65e12}
USUAL_SHARE = 0.4
CPU_CORE_FLOPS = 25e9  # measured: float32, small matrices, one core


def detect() -> Device:
    """The device that a training process of this machine uses."""
    if not importlib.metadata.version("torch").endswith("+cpu"):
        with driver() as handles:
            if handles:
                name = str(pynvml.nvmlDeviceGetName(handles[0]))
                peak = next((peak for key, peak in PEAK_FLOPS.items() if key in name), 50e12)
                return Device("cuda", name, pynvml.nvmlDeviceGetMemoryInfo(handles[0]).total, peak * USUAL_SHARE)
    cores = psutil.cpu_count(logical=False) or 1
    return Device("cpu", f"{cores} CPU cores", psutil.virtual_memory().available, cores * CPU_CORE_FLOPS)


@contextmanager
def driver() -> Iterator[list[Any]]:
    """Handles of the visible GPUs; none where there is no NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        indices = range(pynvml.nvmlDeviceGetCount())
        chosen = [i for i in indices if visible is None or str(i) in visible.split(",")]
        yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in chosen]
    finally:
        pynvml.nvmlShutdown()


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
