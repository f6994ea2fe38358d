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


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`input_ids`, `labels` and `position_ids`, each (1, tokens), and the documents as `attention.groups` has them.

    Labels are -100 where nothing is trained.
    """
    lengths = list(itertools.chain.from_iterable(row["lengths"] for row in rows))
    input_ids = torch.from_numpy(np.concatenate([np.asarray(row["input_ids"], dtype=np.int64) for row in rows]))
    mask = torch.from_numpy(np.concatenate([np.asarray(row["mask"], dtype=np.bool_) for row in rows]))
    documents, place = attention.groups(lengths)
    return {
        "input_ids": input_ids[None],
        "labels": input_ids.masked_fill(~mask, IGNORED)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "documents": documents,
        "place": place,
    }


def moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors on a device."""
    return {
        name: [one.to(device) for one in value] if isinstance(value, list) else value.to(device)
        for name, value in inputs.items()
    }
