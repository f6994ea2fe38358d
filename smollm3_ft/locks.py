"""Locks that a dead owner cannot hold: advisory locks of the operating system on files in `<runs_dir>/.locks/`."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from smollm3_ft.errors import RunBusy

UNSIGNED = "another process"  # it has just taken the lock, and is writing its name
SECONDS_TO_SIGN = 1.0
PATIENCE = 180  # seconds that a training process may take to save and end after its parent is gone


@contextmanager
def hold(runs_dir: Path, name: str, wait: bool = False, far: float = 0) -> Iterator[int]:
    """Hold the lock `name`; yields its file descriptor, which a child that inherits it holds too.

    Raises RunBusy, naming the owner, where a live one holds it, unless told to wait. The child of a dead owner is
    waited for, since it is about to save and end; so is, for `far` seconds, an owner on another machine, of whom it
    cannot be seen from here whether he lives.
    """
    path = runs_dir / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if wait:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            _take(descriptor, name, far)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def owner(runs_dir: Path, name: str) -> str | None:
    """Who holds the lock `name` now, or None."""
    path = runs_dir / ".locks" / name
    if not path.is_file():
        return None
    descriptor = os.open(path, os.O_RDWR)
    try:
        if _try(descriptor):
            return None
        return _owner(descriptor)[0]
    finally:
        os.close(descriptor)


def is_held_by_the_living(runs_dir: Path, name: str) -> bool:
    """Whether the lock is held and its owner is alive (a dead owner's child will end soon)."""
    path = runs_dir / ".locks" / name
    if not path.is_file():
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        return not _try(descriptor) and _owner(descriptor)[1] is not False
    finally:
        os.close(descriptor)


def _take(descriptor: int, name: str, far: float) -> None:
    began = time.monotonic()
    while not _try(descriptor):
        who, alive = _owner(descriptor)
        patience = SECONDS_TO_SIGN if who == UNSIGNED else {True: 0, False: PATIENCE, None: far}[alive]
        if time.monotonic() - began >= patience:
            raise RunBusy(f"{name.lstrip('.')} is being worked on by {who}", "wait for it, or give another name")
        time.sleep(0.1)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(descriptor: int) -> tuple[str, bool | None]:
    """The owner in words, and whether it is alive; None where that cannot be seen from here."""
    try:
        held = json.loads(os.pread(descriptor, 1000, 0))
        pid, host = int(held["pid"]), str(held["host"])
    except (ValueError, KeyError):
        return UNSIGNED, True
    if host != socket.gethostname():
        return f"process {pid} on {host}", None
    return f"process {pid}", _is_alive(pid)


def _is_alive(pid: int) -> bool:
    """Whether a process works; one that has ended and waits to be noticed does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
