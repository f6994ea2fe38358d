"""The machine while it trains: CPU, memory, disk and network by psutil, the GPUs in use by NVIDIA's own library."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pynvml

from smollm3_ft import devices
from smollm3_ft.journal import Journal


def watch(journal: Journal, folder: Path, interval: float, stop: threading.Event, processes: int = 1) -> int:
    """Write a sample every `interval` seconds until told to stop. Returns their number.

    Each of the `processes` trains on a GPU of its own: the first ones that this process sees are in use.
    """
    psutil.cpu_percent()  # the first call only sets the start of the interval
    written, before = 0, traffic()
    with devices.driver() as handles:
        ending = False
        while not ending:
            ending = stop.wait(interval)
            now = traffic()
            journal.write("system", {**sample(folder, handles[:processes]), **rates(before, now)})
            written, before = written + 1, now
    return written


def sample(folder: Path, handles: list[Any]) -> dict[str, float]:
    """Percent, bytes, watts and degrees Celsius, as they are now."""
    memory = psutil.virtual_memory()
    values: dict[str, float] = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": memory.used,
        "memory_percent": memory.percent,
        "disk_free_bytes": devices.free_disk(folder),
    }
    for index, handle in enumerate(handles):
        values |= {f"gpu{index}_{name}": value for name, value in _gpu(handle).items()}
    return values


def traffic() -> dict[str, float]:
    """Bytes over the network and the disks since the machine started, and when they were counted, in seconds."""
    network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
    counted: dict[str, float] = {"at": time.monotonic()}
    if network is not None:  # there is none in some containers
        counted |= {"network_sent": network.bytes_sent, "network_received": network.bytes_recv}
    if disk is not None:
        counted |= {"disk_read": disk.read_bytes, "disk_written": disk.write_bytes}
    return counted


def rates(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Bytes a second between two counts. A device that came or went meanwhile may leave a count lower: none then."""
    seconds = max(1e-9, now["at"] - before["at"])
    names = [name for name in now if name != "at" and name in before]
    return {f"{name}_bytes_per_second": max(0.0, now[name] - before[name]) / seconds for name in names}


def _gpu(handle: Any) -> dict[str, float]:
    """What this card and its driver can tell."""
    asked: dict[str, Callable[[], float]] = {
        "percent": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_bytes": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used,
        "watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    }
    values = {}
    for name, ask in asked.items():
        try:
            values[name] = ask()
        except pynvml.NVMLError_NotSupported:
            continue
    return values
