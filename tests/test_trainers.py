"""What a trainer is built of before its first step."""

import contextlib
from pathlib import Path

import pytest
import torch
from conftest import MakePlan, facts

from smollm3_ft import journal, trainers

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL's and PEFT's own calls


class Never:
    """No request to stop."""

    def __bool__(self) -> bool:
        return False


def adapter(make_plan: MakePlan, folder: Path, seed: int) -> torch.Tensor:
    """A new adapter's random weights, after other numbers were drawn."""
    plan = make_plan(folder / "runs", f"seed-{seed}", facts(20), seed=seed, train__adapter="lora")
    torch.rand(seed)
    with contextlib.closing(journal.Journal(folder / "metrics.jsonl", plan.run_id)) as lines:
        model = trainers.sft(plan, lines, Never()).model
    return torch.cat([weight.flatten() for name, weight in model.named_parameters() if "lora_A" in name])


def test_an_adapter_begins_as_its_seed_says(make_plan: MakePlan, tmp_path: Path) -> None:
    """The same seed makes the same adapter, whatever was drawn before; another seed makes another."""
    first, again, other = (adapter(make_plan, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
