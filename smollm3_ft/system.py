"""The machine while it trains: CPU, memory, disk and network by psutil, the GPUs in use by NVIDIA's own library."""

from __future__ import annotations

import threading
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
    written = 0
    with devices.driver() as handles:
        while not stop.wait(interval):
            journal.write("system", sample(folder, handles[:processes]))
            written += 1
        journal.write("system", sample(folder, handles[:processes]))
    return written + 1


def sample(folder: Path, handles: list[Any]) -> dict[str, float]:
    """Percent, bytes, watts and degrees Celsius, as they are now; traffic in bytes since the machine started."""
    memory, network, disk = psutil.virtual_memory(), psutil.net_io_counters(), psutil.disk_io_counters()
    values: dict[str, float] = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": memory.used,
        "memory_percent": memory.percent,
        "disk_free_bytes": devices.free_disk(folder),
    }
    if network is not None:  # there is none in some containers
        values |= {"network_sent_bytes": network.bytes_sent, "network_received_bytes": network.bytes_recv}
    if disk is not None:
        values |= {"disk_read_bytes": disk.read_bytes, "disk_written_bytes": disk.write_bytes}
    for index, handle in enumerate(handles):
        values |= {f"gpu{index}_{name}": value for name, value in _gpu(handle).items()}
    return values


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
