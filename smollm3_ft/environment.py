"""The environment of a process that this one starts: without secrets, and with what training needs of its libraries."""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil

from smollm3_ft import devices

PARENT = "SMOLLM3_FT_PARENT"  # the parent's process id: a child looks for it when it has imported its libraries
SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "AUTH_STRING")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child that needs no token, key or password."""
    return {name: value for name, value in environment.items() if not is_secret(name)}


def is_secret(name: str) -> bool:
    """Whether a variable holds a token, key or password: a word of its name ends so."""
    return any(f"{word}_" in f"{name.upper()}_" for word in SECRET_WORDS)


def of_child(count: int, online: bool) -> dict[str, str]:
    """What each of `count` processes that touch a model is told; only one that is `online` may ask the Hub."""
    kept = {name: value for name, value in without_secrets(os.environ).items() if not name.startswith("PREFECT_")}
    # A thread that spins while it waits takes a core from all: beside another process, training ran 20 times slower.
    kept.setdefault("OMP_WAIT_POLICY", "passive")
    kept.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for large pages: a tensor's first touch is a fault a page
    if "PYTORCH_CUDA_ALLOC_CONF" not in kept:  # its older name
        # batches are of many sizes: memory in fixed segments would be left in pieces that fit none of them
        kept.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    kept.setdefault("PYTHONWARNINGS", "ignore")  # libraries' deprecations are not the user's business
    if count > 1:
        kept.setdefault("OMP_NUM_THREADS", _threads(count))
    kept[PARENT] = str(os.getpid())
    kept.update({} if online else {"HF_HUB_OFFLINE": "1"})
    return {**kept, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}


def _threads(count: int) -> str:
    """For each of the processes of one machine, its share of the cores."""
    return str(max(1, (psutil.cpu_count(logical=False) or 1) // max(1, count // devices.machines())))
