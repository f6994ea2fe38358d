"""Prepared sequences as the tensors a model takes: all documents one behind the other, without padding.

`attention.py` keeps them apart; `position_ids` begin again at every document.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from smollm3_ft import attention

IGNORED = -100
BESIDE_THE_MODEL = ("labels", "before", "squared", "trained", "reference")  # what is collated and a model is not told


def collate(rows: Sequence[dict[str, Any]], kernel: bool = False) -> dict[str, Any]:
    """`input_ids`, `labels` and `position_ids`, each (1, tokens), and the documents as `attention.layout` has them.

    Labels are -100 where nothing is trained. `before` are the positions whose next token is trained on, and `squared`
    the documents' squared lengths, summed: known here, they need not be asked of a GPU, which would be waited for.
    """
    lengths = list(itertools.chain.from_iterable(row["lengths"] for row in rows))
    input_ids = torch.from_numpy(np.concatenate([np.asarray(row["input_ids"], dtype=np.int64) for row in rows]))
    mask = torch.from_numpy(np.concatenate([np.asarray(row["mask"], dtype=np.bool_) for row in rows]))
    return {
        "input_ids": input_ids[None],
        "labels": input_ids.masked_fill(~mask, IGNORED)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "before": mask[1:].nonzero()[:, 0],
        "squared": sum(length * length for length in lengths),
        **attention.layout(lengths, kernel),
    }


def moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors on a device."""
    return {name: _moved(value, device) for name, value in inputs.items()}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(one, device) for one in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value
