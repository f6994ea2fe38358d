"""Memory that does not suffice, named as such, with the batch size to set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from smollm3_ft.errors import OutOfMemory


@contextmanager
def named_when_short(batch_size: int) -> Iterator[None]:
    """Raise OutOfMemory for an allocation that failed while sequences were taken `batch_size` at a time."""
    try:
        yield
    except RuntimeError as error:
        if not is_short(error):
            raise
        what = f"the device ran out of memory with train.batch_size={batch_size}"
        smaller = f"run the same command with train.batch_size={batch_size // 2}, and it goes on"
        smallest = "set train.gradient_checkpointing=true or train.adapter=lora, or lower data.max_length"
        raise OutOfMemory(what, smaller if batch_size > 1 else smallest) from error


def is_short(error: BaseException) -> bool:
    """Whether torch could not allocate: a GPU's memory, or the machine's."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
