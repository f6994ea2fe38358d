"""Preference pairs under a model: a row is two documents, chosen and rejected, of which the answers are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from smollm3_ft import batches, scoring


class Answers(NamedTuple):
    """`nats` (pairs, 2): log-likelihoods of the chosen and rejected answers; logits and targets at their tokens."""

    nats: torch.Tensor
    logits: torch.Tensor
    targets: torch.Tensor


def collate(rows: Sequence[dict[str, Any]], kernel: bool = False) -> dict[str, Any]:
    """As `batches.collate`, with `trained`, the number of trained tokens of each document, and `reference` if known."""
    inputs = batches.collate(rows, kernel) | {"trained": [n for row in rows for n in scoring.trained_tokens(row)]}
    if "reference" in rows[0]:
        inputs["reference"] = torch.tensor([row["reference"] for row in rows], dtype=torch.float64)
    return inputs


def answers(model: Any, inputs: dict[str, Any]) -> Answers:
    """The answers of collated pairs under a model. Logits are made before trained tokens, and nowhere else."""
    logits, targets = scoring.predicted(model, inputs)
    tokens = torch.split(scoring.log_likelihoods(logits, targets), inputs["trained"])
    # float64, as the ratio of two sums over a thousand tokens is small
    return Answers(torch.stack([part.double().sum() for part in tokens]).view(-1, 2), logits, targets)


def chosen(trained: Sequence[int]) -> list[slice]:
    """Where among the trained tokens those of the chosen answers are."""
    ends = torch.tensor([0, *trained]).cumsum(0).tolist()
    return [slice(ends[index], ends[index + 1]) for index in range(0, len(trained), 2)]


def preferred(margins: torch.Tensor) -> torch.Tensor:
    """1 where the chosen answer has the greater reward, 0 where the rejected one has, and half where they are equal."""
    return (margins.sign() + 1) / 2
