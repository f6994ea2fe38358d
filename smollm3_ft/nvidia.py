"""The NVIDIA GPU, its driver, and torch's build: whether they go together, and what training would use of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pynvml

from smollm3_ft import adapters, devices
from smollm3_ft.environment import without_secrets
from smollm3_ft.findings import Finding

DRIVERS = {11: 450, 12: 525, 13: 580}  # the oldest NVIDIA driver that runs programs of each CUDA, all its minors
AMPERE = (8, 0)  # the first cards that compute in bfloat16, which the variable-length attention kernel needs too
SECONDS_TO_START = 60.0  # of torch and CUDA
GPU_EXTRAS = "make setup EXTRAS=gpu"


class Driver(NamedTuple):
    """The NVIDIA driver: its version, the CUDA that it speaks, and the compute capability of each card it shows us."""

    version: str
    cuda: tuple[int, int]
    cards: tuple[tuple[str, tuple[int, int]], ...]


def torch_and_driver() -> Finding:
    """Whether torch can use the GPU that is here, by the versions of both; neither is started."""
    version, built_for = importlib.metadata.version("torch"), torch_cuda()
    try:
        here = driver()
    except pynvml.NVMLError as error:
        remedy = "start the machine anew, if the driver was updated while it ran; see nvidia-smi"
        return Finding("fault", f"the NVIDIA driver is there, and does not answer ({error})", remedy)
    card = here.cards[0][0] if here and here.cards else None
    if built_for is None:
        if card is None:
            return Finding("ok", f"torch {version}, built for the CPU; no NVIDIA GPU here")
        remedy = f"pip install --force-reinstall torch=={version.split('+')[0]}, of a build for CUDA"
        return Finding("warning", f"torch {version} is built for the CPU, and here is {card}", remedy)
    built = f"torch {version}, built for CUDA {built_for}"
    if here is None:
        return Finding("warning", f"{built}, and no NVIDIA driver answers: it trains on the CPU", "install the driver")
    if card is None:
        remedy = "see CUDA_VISIBLE_DEVICES, and nvidia-smi"
        return Finding("warning", f"{built}; driver {here.version} shows no GPU: it trains on the CPU", remedy)
    major = int(built_for.split(".")[0])
    if here.cuda[0] < major:
        needed = f"driver {DRIVERS[major]} or newer" if major in DRIVERS else f"a driver for CUDA {major}"
        what = f"{built}, needs {needed}; driver {here.version} speaks CUDA {here.cuda[0]}.{here.cuda[1]}"
        remedy = f"update the NVIDIA driver, or install torch built for CUDA {here.cuda[0]}"
        return Finding("fault", what, remedy)
    number = f"{len(here.cards)} × " if len(here.cards) > 1 else ""
    return Finding("ok", f"{built}; driver {here.version}; {number}{card}")


def cuda() -> Finding:
    """Whether CUDA starts, tried by a process of its own where there is a GPU for it."""
    if torch_cuda() is None or not cards():
        return Finding("ok", "not used here")
    command, environment = [sys.executable, "-m", "smollm3_ft.cudatry"], without_secrets(os.environ)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS_TO_START, check=False
        )
    except subprocess.TimeoutExpired:
        what = f"it did not start within {SECONDS_TO_START:g} s"
        return Finding("fault", what, "see nvidia-smi; start the machine anew")
    if done.returncode == 0:
        return Finding("ok", "it starts, and computes attention and its gradients in bfloat16")
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Finding("fault", f"torch cannot use the GPU ({last[:200]})", "mend what torch, above, says; see nvidia-smi")


def torch_cuda() -> str | None:
    """The CUDA that torch is built for; None for the CPU alone. Read in its files: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def driver() -> Driver | None:
    """The NVIDIA driver of this machine; None where there is none. Raises NVMLError for one that does not answer."""
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    try:
        version, number = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        with devices.driver() as handles:
            found = tuple(
                (str(pynvml.nvmlDeviceGetName(one)), tuple(pynvml.nvmlDeviceGetCudaComputeCapability(one)))
                for one in handles
            )
        return Driver(version, (number // 1000, number % 1000 // 10), found)
    finally:
        pynvml.nvmlShutdown()


def cards() -> tuple[tuple[str, tuple[int, int]], ...]:
    """The GPUs that training sees; none where the driver does not answer."""
    try:
        here = driver()
    except pynvml.NVMLError:
        return ()
    return here.cards if here else ()


def kernels() -> Finding:
    """What training would choose: for attention, for norms and gates, and for weights in four bits."""
    card = next((capability for _, capability in cards()), None) if torch_cuda() else None
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
