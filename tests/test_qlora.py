"""QLoRA: an adapter trained on four bits, and put on the base model as it was. Runs on the CPU too."""

from pathlib import Path

import pytest
import torch
from conftest import MakePlan, facts
from safetensors.torch import load_file
from trained import STEPS, Trained, undisturbed

from smollm3_ft import batches, evaluation, scoring, shards, trainers

pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def trained(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    given = {**STEPS, "train__adapter": "qlora", "train__learning_rate": 1e-2}
    plan = make_plan(tmp_path_factory.mktemp("qlora") / "runs", "a", facts(60), **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return undisturbed(plan)


def test_it_learns(trained: Trained) -> None:
    """The validation loss falls."""
    assert trained.ends == [None]
    losses = [values["loss"] for _, _, values in trained.told("eval")]
    assert losses[-1] < losses[0]


def test_the_base_is_of_four_bits(trained: Trained) -> None:
    """While it is trained, every linear layer of the base is packed, two weights a byte."""
    model = trainers.load_model(trained.plan)
    packed = [weight for name, weight in model.named_parameters() if "_proj" in name]
    assert {weight.dtype for weight in packed} == {torch.uint8}
    assert sum(weight.numel() for weight in packed) * 2 == sum(
        module.in_features * module.out_features for name, module in model.named_modules() if name.endswith("_proj")
    )


def test_validating_changes_no_weight(trained: Trained) -> None:
    """A pass in evaluation mode leaves the four bits and their scales as they were: a resumed run has the same."""
    model = trainers.load_model(trained.plan)
    with torch.no_grad():
        inputs = batches.collate([{"input_ids": list(range(20)), "mask": [1] * 20, "lengths": [20]}])
        del inputs["labels"]
        model.train()
        before = model(**inputs).logits
        model.eval()(**inputs)
        assert torch.equal(model.train()(**inputs).logits, before)


def test_the_adapter_is_merged_into_the_whole_base(trained: Trained, tiny: Path) -> None:
    """What the model differs by is the adapter's product, of its rank: four bits would have left their rounding."""
    found, base = load_file(trained.folder / "model" / "model.safetensors"), load_file(tiny / "model.safetensors")
    assert sorted(found) == sorted(base)
    changed = {name for name in base if (found[name] != base[name]).any()}
    assert changed == {name for name in base if "_proj" in name}
    rank = trained.plan.config.train.lora.r
    for name in changed:
        sizes = torch.linalg.svdvals(found[name].float() - base[name].float())
        assert sizes[rank] < 1e-4 * sizes[0]


def test_the_whole_model_is_as_good(trained: Trained) -> None:
    """On its own base the adapter does as it did on four bits: the loss of the last validation, nearly."""
    rows = shards.read(Path(trained.plan.prepared.folder) / "validation.arrow").to_pylist()
    model, _ = evaluation.load(trained.folder / "model", "float32", "cpu")
    *_, (_, _, last) = trained.told("eval")
    nats, tokens, _ = scoring.summed(scoring.score(model, rows, 1000))
    assert nats / tokens == pytest.approx(last["loss"], rel=0.05)
