"""The loss of rows under a model, summed over trained tokens: one function for validation and for evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from smollm3_ft import attention, batches, memory

POSITIONS_AT_ONCE = 1024  # of the vocabulary-wide logits, where only the loss is wanted
LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}  # in float32: what a core's cache holds, and what fills a GPU


class Score(NamedTuple):
    """The summed negative log-likelihood (nats) of trained tokens, their number, and the hits among them."""

    loss: float
    tokens: int
    correct: int


def score(model: Any, rows: Sequence[dict[str, Any]], tokens_at_once: int) -> list[Score]:
    """Score each row, in the given order, whatever the batches. The model is put into evaluation mode and back."""
    return [summed(found) for found in documents(model, rows, tokens_at_once)]


def summed(scores: Iterable[Score]) -> Score:
    """Of several scores one."""
    scores = list(scores)
    return Score(sum(s.loss for s in scores), sum(s.tokens for s in scores), sum(s.correct for s in scores))


@torch.no_grad()
def documents(
    model: Any, rows: Sequence[dict[str, Any]], tokens_at_once: int, on_batch: Callable[[], None] = lambda: None
) -> list[list[Score]]:
    """As `score`, each document of a row by itself. Where memory does not suffice, half as many tokens are taken."""
    was_training = model.training
    model.eval()
    try:
        with attention.per_document(model):
            while True:
                try:
                    return _in_batches(model, rows, tokens_at_once, on_batch)
                except RuntimeError as error:
                    if not memory.is_short(error) or tokens_at_once <= max(len(row["input_ids"]) for row in rows):
                        raise
                tokens_at_once //= 2
    finally:
        model.train(was_training)


@torch.no_grad()
def documents_whole(model: Any, rows: Sequence[dict[str, Any]], on_batch: Callable[[], None]) -> list[list[Score]]:
    """As `documents`, by a forward pass a row, of the whole model: its parts may be spread over processes."""
    was_training = model.training
    model.eval()
    try:
        with attention.per_document(model):
            scores: list[list[Score]] = []
            for row in rows:
                on_batch()
                logits, targets = predicted(model, _inputs(model, [row]))
                losses, hits = -log_likelihoods(logits, targets), logits.argmax(-1) == targets
                scores += _by_document([row], losses, hits)
            return scores
    finally:
        model.train(was_training)


def predicted(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits (positions, vocabulary) before trained tokens, and these tokens. No others are made."""
    before = inputs["before"]
    states = {name: value for name, value in inputs.items() if name not in batches.BESIDE_THE_MODEL}
    return model(**states, logits_to_keep=before, use_cache=False).logits[0], inputs["labels"][0, before + 1]


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood (nats) of `targets` (positions) under `logits` (positions, vocabulary)."""
    return -log_likelihoods(logits, targets).sum()


def log_likelihoods(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-likelihood (nats) of each of `targets` (positions) under `logits` (positions, vocabulary).

    In float32, a piece of the logits at a time: all of them at once are the largest of tensors.
    """
    found: torch.Tensor = _LogLikelihoods.apply(logits, targets)  # type: ignore[no-untyped-call]  # torch's has no types
    return found


class _LogLikelihoods(torch.autograd.Function):  # torch wants a class
    """Keeps the logits and one number a position. The gradient is one at the target, less softmax(logits)."""

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        totals = torch.empty(len(targets), device=logits.device)  # log of the sum of exp(logits)
        chosen = torch.empty_like(totals)
        for piece in _pieces(logits):
            one = logits[piece].float()
            totals[piece] = one.logsumexp(-1)
            chosen[piece] = one.gather(1, targets[piece, None])[:, 0]
        context.save_for_backward(logits, targets, totals)
        return chosen - totals

    @staticmethod
    def backward(context: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, totals = context.saved_tensors
        gradient = torch.empty_like(logits)
        for piece in _pieces(logits):
            one = (logits[piece].float() - totals[piece, None]).exp_()
            one.scatter_add_(1, targets[piece, None], one.new_full((len(one), 1), -1.0))
            gradient[piece] = one.mul_(-upstream[piece, None])
        return gradient, None


def _pieces(logits: torch.Tensor) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE[logits.device.type] // logits.shape[1])
    return [slice(at, at + size) for at in range(0, len(logits), size)]


def trained_tokens(row: dict[str, Any]) -> list[int]:
    """The number of trained tokens of each document of a row; the first token of one is never trained on."""
    ends = list(itertools.accumulate(row["lengths"]))
    return [sum(row["mask"][end - length : end]) for end, length in zip(ends, row["lengths"], strict=True)]


def _in_batches(
    model: Any, rows: Sequence[dict[str, Any]], tokens_at_once: int, on_batch: Callable[[], None]
) -> list[list[Score]]:
    scores: dict[int, list[Score]] = {}
    for indices in _grouped(rows, tokens_at_once):
        on_batch()
        scores.update(zip(indices, _score_batch(model, [rows[i] for i in indices]), strict=True))
    return [scores[index] for index in range(len(rows))]


def _grouped(rows: Sequence[dict[str, Any]], tokens_at_once: int) -> Iterator[list[int]]:
    """Indices of rows of like length, as many as make `tokens_at_once` tokens."""
    group: list[int] = []
    size = 0
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"])):
        if group and size + len(rows[index]["input_ids"]) > tokens_at_once:
            yield group
            group, size = [], 0
        group.append(index)
        size += len(rows[index]["input_ids"])
    if group:
        yield group


def _inputs(model: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows as the model takes them, where it is, for the attention that it is computed with."""
    weight = next(model.parameters())
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return batches.moved(batches.collate(rows, attention.has_kernel(weight.device, dtype)), weight.device)


def _score_batch(model: Any, rows: Sequence[dict[str, Any]]) -> Iterator[list[Score]]:
    inputs = _inputs(model, rows)
    before, targets = inputs["before"], inputs["labels"][0, inputs["before"] + 1]
    states = {name: value for name, value in inputs.items() if name not in batches.BESIDE_THE_MODEL}
    hidden = model.model(**states, use_cache=False).last_hidden_state[0, before]
    losses, hits = [], []
    for at in range(0, len(targets), POSITIONS_AT_ONCE):
        logits = model.lm_head(hidden[at : at + POSITIONS_AT_ONCE]).float()
        chosen = targets[at : at + POSITIONS_AT_ONCE]
        losses.append(functional.cross_entropy(logits, chosen, reduction="none"))
        hits.append(logits.argmax(-1) == chosen)
    yield from _by_document(rows, torch.cat(losses), torch.cat(hits))


def _by_document(rows: Sequence[dict[str, Any]], losses: torch.Tensor, hits: torch.Tensor) -> Iterator[list[Score]]:
    """The scores of rows from the losses and hits of all their trained tokens."""
    losses, at = losses.double(), 0
    for row in rows:
        found = []
        for count in trained_tokens(row):
            own = slice(at, at + count)
            found.append(Score(float(losses[own].sum()), count, int(hits[own].sum())))
            at += count
        yield found
