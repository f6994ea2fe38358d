"""Memory that does not suffice is told from other failures, and the message says what to set."""

import pytest
import torch

from smollm3_ft import memory
from smollm3_ft.errors import OutOfMemory


def test_the_batch_size_to_set_is_named() -> None:
    """What torch cannot allocate becomes a failure that names a smaller micro-batch."""
    said = r"run the same command with train\.batch_size=4, and it goes on"
    with pytest.raises(OutOfMemory, match=said), memory.named_when_short(8):
        torch.empty(2**55)


def test_a_single_sequence_cannot_be_halved() -> None:
    """With a micro-batch of one, other remedies are named."""
    with pytest.raises(OutOfMemory, match=r"train\.gradient_checkpointing=true"), memory.named_when_short(1):
        torch.empty(2**55)


def test_other_failures_stay_as_they_are() -> None:
    """A bug in a shape is no lack of memory."""
    with pytest.raises(RuntimeError, match="shape"), memory.named_when_short(8):
        torch.ones(2, 3) @ torch.ones(2, 3)
