"""What the processes of one training tell each other. Where there is only one, nothing is sent.

Who they are comes from the environment that accelerate's launcher sets; the connection is made with the trainer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import distributed

from smollm3_ft.errors import ConfigError, Problem

T = TypeVar("T")


def index() -> int:
    """This process among all, counted from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes what is written once: journal, checkpoint, model, record."""
    return index() == 0


def check_count(planned: int) -> None:
    """Raise ConfigError where other than the planned number of processes were started."""
    if count() != planned:
        what = f"the plan is for {planned} processes, {count()} were started"
        remedy = f"start it with `accelerate launch --num_processes {planned}`, or plan anew with --fresh"
        raise ConfigError(Problem("compute.num_processes", what, remedy))


def summed(values: Sequence[Any]) -> list[float]:
    """Numbers, and tensors of one number, summed over all processes, in float64."""
    mine = [float(value) for value in values]
    if count() == 1:
        return mine
    sums = torch.tensor(mine, dtype=torch.float64, device=PartialState().device)
    distributed.all_reduce(sums)
    return sums.tolist()


def any_of(flag: bool) -> bool:
    """Whether it is so in any process: all get the same answer, at the same place of their work."""
    return flag if count() == 1 else summed([flag])[0] > 0


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, in all of them."""
    made: list[Any] = [make() if is_first() else None]
    if count() > 1:
        distributed.broadcast_object_list(made, device=PartialState().device)
    return made[0]  # type: ignore[no-any-return]  # as it was made


def wait_for_all() -> None:
    if count() > 1:
        PartialState().wait_for_everyone()
