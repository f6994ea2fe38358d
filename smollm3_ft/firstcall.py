"""What has to be done by one thread before several do it, or a run is not the same twice."""

from __future__ import annotations

import torch

VECTOR_FUNCTIONS = (torch.cos, torch.sin, torch.exp, torch.log)


def settle() -> None:
    """Let MKL choose the code of its vector functions, which it does at the first call of one.

    Two threads that make that call together now and then choose differently: of 25,145 processes on busy cores seven
    had some of their first cosines by other code, a rounding apart (`benchmarks/first_call.py`), and such a training
    ends with other weights.
    """
    one = torch.ones(1)  # too small to be divided among threads
    for function in VECTOR_FUNCTIONS:
        function(one)
