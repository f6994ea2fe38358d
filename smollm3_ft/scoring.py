"""The loss of rows under a model, summed over trained tokens: one function for validation and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from smollm3_ft import batches

POSITIONS_AT_ONCE = 4096  # of the vocabulary-wide logits


class Score(NamedTuple):
    """Of one sequence: the summed negative log-likelihood (nats) of its trained tokens, their number, and the hits."""

    loss: float
    tokens: int
    correct: int


@torch.no_grad()
def score(model: Any, rows: Sequence[dict[str, Any]], pad: int, tokens_at_once: int) -> list[Score]:
    """Score each row, in the given order, whatever the batches. The model is put into evaluation mode and back."""
    was_training = model.training
    model.eval()
    scores: list[Score | None] = [None] * len(rows)
    try:
        for indices in _grouped(rows, tokens_at_once):
            for index, one in zip(indices, _score_batch(model, [rows[i] for i in indices], pad), strict=True):
                scores[index] = one
    finally:
        model.train(was_training)
    return [one for one in scores if one is not None]


def mean_loss(scores: Sequence[Score]) -> float:
    """Nats a trained token."""
    return sum(one.loss for one in scores) / max(1, sum(one.tokens for one in scores))


def _grouped(rows: Sequence[dict[str, Any]], tokens_at_once: int) -> Iterator[list[int]]:
    """Indices of rows of like length, as many as make `tokens_at_once` padded tokens."""
    group: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"])):
        if group and (len(group) + 1) * len(rows[group[0]]["input_ids"]) > tokens_at_once:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _score_batch(model: Any, rows: Sequence[dict[str, Any]], pad: int) -> Iterator[Score]:
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batches.collate(rows, pad).items()}
    labels = inputs.pop("labels")[:, 1:]
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    trained = labels != batches.IGNORED
    states, targets = hidden[trained], labels[trained]
    losses, hits = [], []
    for at in range(0, len(targets), POSITIONS_AT_ONCE):
        logits = model.lm_head(states[at : at + POSITIONS_AT_ONCE]).float()
        chosen = targets[at : at + POSITIONS_AT_ONCE]
        losses.append(functional.cross_entropy(logits, chosen, reduction="none"))
        hits.append(logits.argmax(-1) == chosen)
    counts = trained.sum(1).tolist()
    all_losses, all_hits = torch.cat(losses).double(), torch.cat(hits)
    at = 0
    for count in counts:
        yield Score(float(all_losses[at : at + count].sum()), count, int(all_hits[at : at + count].sum()))
        at += count
