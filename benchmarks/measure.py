"""What every benchmark needs: a fresh process for each contender, and what that process and its children take."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from smollm3_ft import files, identity

MEMORY_EVERY = 0.05
SHARE_OF_SAMPLING = 0.05  # looking at the memory slows what is looked at


def cpu_seconds() -> float:
    """User and system time of this process and its children so far, those that ended and those that live."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (me, *me.children(recursive=True)))


def in_fresh_process(script: Path, words: list[str], result: Path) -> dict[str, Any]:
    """Run a script that writes its measurements to `result`; adds the peak memory of its processes in MiB."""
    result.unlink(missing_ok=True)
    log = result.with_suffix(".log")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
    with log.open("w") as output:
        command = [sys.executable, str(script), *words, str(result)]
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        peak = _peak_memory(child, result)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{log.read_text()[-4000:]}")
    return {**files.read_json(result), "peak_memory_mib": round(peak / 2**20, 1)}


def done(result: Path, measured: dict[str, float]) -> None:
    """Tell the parent that the work is done: what follows only looks at it, and its memory does not count."""
    files.write_json(result, measured)


def _peak_memory(child: subprocess.Popen[bytes], result: Path) -> int:
    """The largest sum of the proportional set sizes of a process and its descendants, until its work is done."""
    peak, root = 0, psutil.Process(child.pid)
    while child.poll() is None and not result.exists():
        began = time.perf_counter()
        peak = max(peak, _memory(root))
        took = time.perf_counter() - began
        time.sleep(max(MEMORY_EVERY - took, took / SHARE_OF_SAMPLING))
    child.wait()
    return peak


def _memory(root: psutil.Process) -> int:
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        pass  # one of them has just ended: the next sample sees the rest
    return total


def versions(*packages: str) -> dict[str, str]:
    """Of Python, of what a result may depend on, and of these packages beside."""
    beside = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **beside, **identity.versions()}


def processor() -> str:
    """The CPU's name and the cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
