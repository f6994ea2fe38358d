"""A disk without room, named as such: libraries word it in many ways, or do not mention it at all."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from smollm3_ft import devices, files
from smollm3_ft.errors import TrainingError


@contextmanager
def named_when_full(folder: Path, needed: int = 0) -> Iterator[None]:
    """Raise TrainingError for a write that failed where `folder` has less free than the `needed` bytes."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = devices.free_disk(folder)
        if is_full(error) or free < needed:
            what = f"the disk is full: {folder} has {files.gib(free)} free"
            what += f", {files.gib(needed)} were to be written" if needed else ""
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
