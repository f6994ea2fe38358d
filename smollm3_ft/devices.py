"""The machine: what it trains on and what room it has. Looks at the driver, not at torch, so it answers at once."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
import pynvml
import yaml


class Device(NamedTuple):
    """What one training process runs on. `memory` in bytes: the GPU's, or the machine's that is available."""

    kind: Literal["cuda", "cpu"]
    name: str
    memory: int
    flops: float  # floating-point operations a second that training can count on, roughly
    fused: bool = False  # Liger's kernels for norms, rotations and gates are used
    number: int = 1  # of such devices, in all machines that train together; any number of processes share a CPU
    shards: int | None = None  # over how many processes a model is spread; None where each has it whole


ROOM = 0.9  # of a device's memory may be planned for

# Floating-point operations a second, dense, in bf16 with float32 sums, as NVIDIA's data sheets have them. The more
# special name comes first. A card that is not here has no known peak, and so no MFU.
PEAK_TFLOPS = {
    "B200": 2250,
    "GH200": 989,
    "H200 NVL": 835,
    "H200": 989,
    "H800 PCIe": 756,
    "H800": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "A800": 312,
    "A40": 150,
    "A30": 165,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 6000 Ada": 364,
    "RTX A6000": 155,
    "RTX 5090": 209,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "T4": 65,  # in fp16: it has no bf16
}
OTHER_CARDS = re.compile(
    r"Laptop|Max-Q|MIG|\bD\b|\bTi\b|-\d+[ABCQ]\b"
)  # of the same name, with less of everything, or more
USUAL_SHARE = 0.4  # of the peak, in training: a guess until it is measured
UNKNOWN_CARD = 50e12  # its peak, for a guess of the time
CPU_CORE_FLOPS = 25e9  # measured: float32, small matrices, one core


def peak_flops(name: str) -> float | None:
    """The peak of a card by the name that its driver gives it; None for a CPU, and where it is not known."""
    if OTHER_CARDS.search(name):
        return None
    found = (peak for card, peak in PEAK_TFLOPS.items() if re.search(rf"\b{card}\b", name))
    return next((peak * 1e12 for peak in found), None)


def detect() -> Device:
    """The device that a training process of this machine uses."""
    if not importlib.metadata.version("torch").endswith("+cpu"):
        with driver() as handles:
            if handles:
                name = str(pynvml.nvmlDeviceGetName(handles[0]))
                peak = peak_flops(name) or UNKNOWN_CARD
                memory = pynvml.nvmlDeviceGetMemoryInfo(handles[0]).total
                number = len(handles) * machines()
                return Device("cuda", name, memory, peak * USUAL_SHARE, has_fused_kernels(), number)
    cores = psutil.cpu_count(logical=False) or 1
    return Device("cpu", f"{cores} CPU cores", psutil.virtual_memory().available, cores * CPU_CORE_FLOPS)


def has_fused_kernels() -> bool:
    """Whether Liger is installed (the extra `gpu`)."""
    return importlib.util.find_spec("liger_kernel") is not None


def machines() -> int:
    """How many machines train together, by the configuration that `accelerate config` left on this one."""
    usual = os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface"
    path = Path(os.environ.get("HF_HOME", usual)).expanduser() / "accelerate" / "default_config.yaml"
    return int(yaml.safe_load(path.read_text()).get("num_machines", 1)) if path.is_file() else 1


@contextmanager
def driver() -> Iterator[list[Any]]:
    """Handles of the GPUs that a training process here sees, in its order; none where there is no NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        yield list(_visible())
    finally:
        pynvml.nvmlShutdown()


def _visible() -> Iterator[Any]:
    """CUDA_VISIBLE_DEVICES has indices or UUIDs; CUDA stops at the first that is none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    for name in map(str, range(pynvml.nvmlDeviceGetCount())) if named is None else named.split(","):
        by = pynvml.nvmlDeviceGetHandleByIndex if name.strip().isdigit() else pynvml.nvmlDeviceGetHandleByUUID
        try:
            yield by(int(name) if name.strip().isdigit() else name.strip())
        except pynvml.NVMLError:
            return


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
