"""The machine while it trains: CPU, memory, disk and network by psutil, the visible GPUs by NVIDIA's own library."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psutil
import pynvml

from smollm3_ft import devices
from smollm3_ft.journal import Journal


def watch(journal: Journal, folder: Path, interval: float, stop: threading.Event) -> int:
    """Write a sample every `interval` seconds until told to stop. Returns their number."""
    psutil.cpu_percent()  # the first call only sets the start of the interval
    written = 0
    with devices.driver() as handles:
        while not stop.wait(interval):
            journal.write("system", sample(folder, handles))
            written += 1
        journal.write("system", sample(folder, handles))
    return written + 1


def sample(folder: Path, handles: list[Any]) -> dict[str, float]:
    """Percent, bytes, watts and degrees Celsius, as they are now."""
    memory, network = psutil.virtual_memory(), psutil.net_io_counters()
    values: dict[str, float] = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": memory.used,
        "memory_percent": memory.percent,
        "disk_free_bytes": devices.free_disk(folder),
    }
    if network is not None:  # there is none in some containers
        values |= {"network_sent_bytes": network.bytes_sent, "network_received_bytes": network.bytes_recv}
    for index, handle in enumerate(handles):
        used = pynvml.nvmlDeviceGetUtilizationRates(handle)
        held = pynvml.nvmlDeviceGetMemoryInfo(handle)
        values[f"gpu{index}_percent"] = used.gpu
        values[f"gpu{index}_memory_bytes"] = held.used
        values[f"gpu{index}_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        values[f"gpu{index}_celsius"] = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    return values
