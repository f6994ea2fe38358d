"""Attention in which no document sees another, without a square mask over all of them.

Documents of like length go through torch's causal attention together, padded to the longest of them: a document's last
token is repeated behind it, where causal attention lets nothing look, and what comes out there is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch.nn import functional
from transformers.masking_utils import AttentionMaskInterface

NAME = "per_document"
FEW = 16  # tokens of padding that cost less than one more call


def groups(lengths: Sequence[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """How documents, one behind the other, go through attention together.

    Returns tensors (documents, longest) of token positions, and for each token where it comes out among all of them.
    """
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    found: list[torch.Tensor] = []
    place = torch.empty(sum(lengths), dtype=torch.long)
    offset = 0
    for members in _alike(lengths):
        longest = lengths[members[0]]
        sizes = torch.tensor([lengths[member] for member in members])
        within = torch.arange(longest)
        positions = starts[members, None] + torch.minimum(within, sizes[:, None] - 1)
        own = within < sizes[:, None]
        place[positions[own]] = offset + own.flatten().nonzero()[:, 0]
        found.append(positions)
        offset += positions.numel()
    return found, place


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Documents of like length, the longest first: at most a fifth of a group, or a few tokens each, is padding."""
    held: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if held and lengths[index] < min(lengths[held[0]] * 4 // 5, lengths[held[0]] - FEW):
            yield held
            held = []
        held.append(index)
    if held:
        yield held


def forward(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: None,
    *,
    documents: Sequence[torch.Tensor],
    place: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query (1, heads, tokens, size), key and value with a part of the heads.

    Returns (1, tokens, heads, size).
    """
    shared = query.shape[1] // key.shape[1]
    found = []
    for positions in documents:
        q, k, v = (_taken(states, positions) for states in (query, key, value))
        k, v = (states.repeat_interleave(shared, dim=1) for states in (k, v))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=scaling)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, place)[None], None


def _taken(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(documents, heads, longest, size) of (1, heads, tokens, size)."""
    taken = states[0].index_select(1, positions.flatten())
    return taken.view(len(taken), *positions.shape, -1).transpose(0, 1)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


transformers.AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, _no_mask)


@contextmanager
def per_document(model: Any) -> Iterator[None]:
    """The model with this attention, for a while: answers are generated with its own."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
