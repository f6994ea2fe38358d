"""Attention in which no document sees another, without a square mask over all of them.

On a GPU, in half precision, torch's variable-length kernel does it. Everywhere else documents of like length go
through torch's causal attention together, padded to the longest of them: a document's last token is repeated behind
it, where causal attention lets nothing look, and what comes out there is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

NAME = "per_document"
FEW = 16  # tokens of padding that cost less than one more call


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel, which is FlashAttention 2, computes on this device in this type."""
    half = dtype in (torch.bfloat16, torch.float16)
    return half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def layout(lengths: Sequence[int], kernel: bool) -> dict[str, Any]:
    """What `forward` is told of documents that lie one behind the other: where each begins, or `groups` of them."""
    if kernel:
        starts = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        return {"starts": starts, "longest": max(lengths)}
    documents, place = groups(lengths)
    return {"documents": documents, "place": place}


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
    starts: torch.Tensor | None = None,
    longest: int = 0,
    documents: Sequence[torch.Tensor] = (),
    place: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query (1, heads, tokens, size), key and value with a part of the heads.

    The rest is as `layout` says. Returns (1, tokens, heads, size).
    """
    if starts is not None:
        # rotary embedding leaves queries and keys in float32 where the masters are; the kernel has no autocast
        q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
        causal: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0), "enable_gqa": q.shape[1] != k.shape[1]}
        one = varlen_attn(q, k, v, starts, starts, longest, longest, **causal)
        assert isinstance(one, torch.Tensor)
        return one[None], None
    assert place is not None
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


# No function for masks is registered: transformers makes none then, and does not look whether sequences are packed,
# for which a GPU would have to be waited for.
transformers.AttentionInterface.register(NAME, forward)


@contextmanager
def per_document(model: Any) -> Iterator[None]:
    """The model with this attention, for a while: answers are generated with its own."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
