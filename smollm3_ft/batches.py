"""Prepared sequences as the tensors a model takes. Documents in one sequence do not see each other.

Transformers builds the attention mask from `position_ids` that begin again at every document; padding is documents of
one token each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

IGNORED = -100


def collate(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `labels` and `position_ids`, each (rows, longest). Labels are -100 where nothing is trained."""
    longest = max(len(row["input_ids"]) for row in rows)
    shape = (len(rows), longest)
    input_ids = torch.full(shape, pad, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(rows):
        ids = torch.as_tensor(row["input_ids"], dtype=torch.long)
        mask = torch.as_tensor(row["mask"], dtype=torch.bool)
        input_ids[index, : len(ids)] = ids
        labels[index, : len(ids)] = ids.masked_fill(~mask, IGNORED)
        position_ids[index, : len(ids)] = torch.cat([torch.arange(length) for length in row["lengths"]])
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
