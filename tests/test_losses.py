"""Every loss of pairs is TRL's, value and gradient, on the same pairs under the same models."""

import copy
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
import torch
import trl
from conftest import Prepare
from pairs_of_the_demo import capitals
from transformers import AutoModelForCausalLM, AutoTokenizer

from smollm3_ft import attention, config, losses, pairs, shards
from smollm3_ft.losses import LOSSES

BETA = 0.3
Pair = dict[str, Any]


@pytest.fixture(scope="module")
def models(tiny: Path) -> tuple[Any, Any]:
    """The built-in model, and one that has moved away from it."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa").eval()
    moved = copy.deepcopy(base)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return base, moved


@pytest.fixture
def rows(prepare: Prepare) -> list[Pair]:
    """Pairs whose answers are of different lengths."""
    longer = [{**row, "rejected": row["rejected"] + ", or so they say" * (n % 3)} for n, row in enumerate(capitals(2))]
    prepared = prepare(longer, method="dpo", validation="none", test="none", max_length=96)
    found: list[Pair] = shards.read(Path(prepared.folder) / "train.arrow").to_pylist()
    return found


def as_trl_has_it(row: Pair) -> dict[str, list[int]]:
    """Prompt and answers: what is before the first trained token, and the trained ones."""
    split = row["lengths"][0]
    documents = [(row[column][:split], row[column][split:]) for column in ("input_ids", "mask")]
    (chosen, rejected), masks = documents[0], documents[1]
    starts = [mask.index(1) for mask in masks]
    ends = [len(mask) - mask[::-1].index(1) for mask in masks]
    assert chosen[: starts[0]] == rejected[: starts[1]]
    return {
        "prompt_ids": chosen[: starts[0]],
        "chosen_ids": chosen[starts[0] : ends[0]],
        "rejected_ids": rejected[starts[1] : ends[1]],
    }


def ours(name: str, base: Any, policy: Any, rows: list[Pair]) -> torch.Tensor:
    inputs = pairs.collate(rows)
    with attention.per_document(base), attention.per_document(policy):
        with torch.no_grad():
            reference = pairs.answers(base, inputs).nats
        ratios = pairs.answers(policy, inputs).nats - reference
    return losses.of_pairs(name, ratios, torch.tensor(inputs["trained"]).view(-1, 2), BETA).mean()


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL's own, of its own calls
def test_every_loss_is_that_of_trl(
    models: tuple[Any, Any], rows: list[Pair], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradient are those of TRL's DPOTrainer, to 1e-5 of their size."""
    base, policy = models
    assert len({length for row in rows for length in row["lengths"]}) > 3
    monkeypatch.setattr(trl.DPOTrainer, "_prepare_dataset", lambda _self, rows, *_: rows)  # they are tokens already
    settings = trl.DPOConfig(
        output_dir=str(tmp_path), beta=BETA, loss_type=list(LOSSES), use_cpu=True, bf16=False, report_to="none",
        activation_checkpointing=False, max_length=None,
    )  # fmt: skip
    theirs = trl.DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(base),
        args=settings,
        processing_class=AutoTokenizer.from_pretrained(tiny),
        train_dataset=datasets.Dataset.from_list([as_trl_has_it(row) for row in rows]),
    )
    inputs = theirs.data_collator(list(theirs.train_dataset))
    for name in LOSSES:
        theirs.loss_types, theirs.loss_weights = [name], [1.0]
        wanted, found = theirs.compute_loss(theirs.model, inputs), ours(name, base, policy, rows)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6), name
        expected = gradient(theirs.model, wanted)
        assert (gradient(policy, found) - expected).norm() <= 1e-4 * expected.norm(), name


def test_every_loss_can_be_asked_for() -> None:
    """The configuration knows the losses that there are, and no other."""
    assert get_args(config.Loss) == tuple(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_pair_has_a_lower_loss(name: str) -> None:
    """A chosen answer that became somewhat likelier, a rejected one that became less likely: that is what is wanted."""
    tokens = torch.ones(2, 2)
    better, worse = losses.of_pairs(name, torch.tensor([[0.4, -0.4], [-0.4, 0.4]]), tokens, BETA).tolist()
    assert better < worse
