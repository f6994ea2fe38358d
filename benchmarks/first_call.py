"""Processes whose first vector function is computed by two threads: in how many it comes out otherwise than usual.

`python benchmarks/first_call.py [--seconds N]`, on busy cores; no goals, no `--json`. Each trial is a fork of a process
that has imported torch and computed nothing: with `firstcall.settle` before, as training and evaluation do it, or not.
"""

import argparse
import collections
import hashlib
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the training process has it

import numpy as np
import torch

from smollm3_ft import firstcall

ANGLES = torch.from_numpy(np.linspace(0, 60, 32_000, dtype=np.float32))  # enough for two threads


def trial(is_settled: bool) -> str:
    """A digest of the cosines that a new process computes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if is_settled:
            firstcall.settle()
        os.write(writer, hashlib.sha256(torch.cos(ANGLES).numpy().tobytes()).digest())
        os._exit(0)
    os.close(writer)
    digest = os.read(reader, 32)
    os.close(reader)
    os.waitpid(child, 0)
    return digest.hex()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="for each of the two")
    seconds = parser.parse_args().seconds
    for name, is_settled in (("as it comes", False), ("settled by one thread", True)):
        found: collections.Counter[str] = collections.Counter()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found[trial(is_settled)] += 1
        others = found.total() - max(found.values())
        sys.stdout.write(f"{name:22} {found.total():6} processes, {others} with other cosines\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
