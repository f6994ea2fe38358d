"""A disk without room, named as such: libraries word it in many ways, or do not mention it at all."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from smollm3_ft import devices, files
from smollm3_ft.errors import ConfigError, FinetuneError, Problem, TrainingError

USUAL_SPEED = 1e9  # bytes a second that a disk writes and flushes
MIB = 2**20
WRITTEN = 32 * MIB  # bytes, to measure it


def check_room(folder: Path, needed: int) -> None:
    """Raise ConfigError where `folder` has not `needed` bytes free."""
    free = devices.free_disk(folder)
    if needed > free:
        what = f"{files.gib(needed)} are needed in {folder}, {files.gib(free)} are free"
        raise ConfigError(Problem("runs_dir", what, "make room, or lower train.save_total_limit"))


def speed(folder: Path) -> float:
    """Bytes a second that are written and flushed in `folder`, measured."""
    content = os.urandom(WRITTEN)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.monotonic()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN / (time.monotonic() - began)


@contextmanager
def named_when_full(folder: Path, needed: int = 0) -> Iterator[None]:
    """Raise TrainingError for a write that failed where `folder` takes nothing or has less free than `needed` bytes."""
    try:
        yield
    except FinetuneError:
        raise  # its cause is known
    except Exception as error:  # tokenizers has no kind of its own
        free = devices.free_disk(folder)
        may_be = isinstance(error, OSError | RuntimeError | SafetensorError)
        if is_full(error) or (may_be and (free < needed or _takes_nothing(folder))):
            what = f"the disk is full: {folder} has {files.gib(free)} free"
            what += f", {files.gib(needed)} were to be written" if needed else ""
            what += ", and takes no more: a quota may be used up" if free > max(needed, MIB) else ""
            raise TrainingError(what, "make room, then run the same command to go on") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, is a disk without room; libraries word it in many ways."""
    while True:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(error) or "os error 28" in str(error):
            return True
        cause = error.__cause__ or error.__context__
        if cause is None:
            return False
        error = cause


def _takes_nothing(folder: Path) -> bool:
    """Whether a MiB finds no room: what is free says little where a quota is used up."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(MIB))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return is_full(error)
    return False
