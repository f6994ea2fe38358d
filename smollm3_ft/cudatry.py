"""Whether CUDA really starts here, and computes what training does: `python -m smollm3_ft.cudatry`.

A driver that answers is not enough: libraries, permissions, or a card's own state may keep torch from it.
"""

from __future__ import annotations

from typing import Any

import torch

SHAPE = (1, 4, 64, 64)  # of queries: sequences, heads, tokens, size; keys and values have half of the heads


def main() -> None:
    """Two documents through attention and back, in the precision of training. Raises what torch does."""
    torch.zeros(1, device="cuda")
    from smollm3_ft import attention  # it brings transformers, which takes seconds

    device, dtype = torch.device("cuda"), torch.bfloat16
    query = torch.ones(SHAPE, device=device, dtype=dtype, requires_grad=True)
    key, value = (torch.ones(1, 2, *SHAPE[2:], device=device, dtype=dtype, requires_grad=True) for _ in range(2))
    layout = attention.layout([40, 24], attention.has_kernel(device, dtype))
    told: dict[str, Any] = {}
    for name, at in layout.items():
        told[name] = [one.to(device) for one in at] if isinstance(at, list) else at
        told[name] = at.to(device) if isinstance(at, torch.Tensor) else told[name]
    out, _ = attention.forward(torch.nn.Module(), query, key, value, None, scaling=0.125, **told)
    torch.autograd.backward(out.float().sum())
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
