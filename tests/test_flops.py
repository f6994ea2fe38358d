"""Operations are counted as the papers count them."""

import pytest
from conftest import configure
from test_settling import MILLION, SMOLLM3

from smollm3_ft import flops


def each(length: int, adapter: str = "none", trained: float = 1.0) -> float:
    """Operations a token with documents of one length."""
    config = configure(train__adapter=adapter)
    return flops.of(config, SMOLLM3, length, trained * length, length**2) / length


@pytest.mark.parametrize(("length", "billions"), [(4096, 20.26), (512, 18.68)])
def test_full_training_of_smollm3(length: int, billions: float) -> None:
    """Six operations a weight, the head's included, and twelve a pair of tokens that causal attention sees."""
    assert each(length) == pytest.approx(billions * 1e9, rel=1e-3)


def test_a_frozen_weight_costs_two_thirds() -> None:
    """With LoRA the base has no gradient of its own; attention costs the same, and the adapter a little."""
    weights, attention = 6 * SMOLLM3.parameters, 12 * 36 * 2048 * 4096 / 2
    adapter = 6 * flops.adapter_parameters(configure(train__adapter="lora").train, SMOLLM3)
    assert each(4096, "lora") == pytest.approx(weights * 4 / 6 + attention + adapter, rel=1e-3)


def test_logits_that_nobody_makes_count_nothing() -> None:
    """The head is at work before trained tokens alone."""
    assert each(512) - each(512, trained=0.5) == 3 * 128_256 * 2048


@pytest.mark.parametrize(("targets", "shapes"), [("all-linear", 7), (("q_proj", "v_proj"), 2)])
def test_the_size_of_an_adapter(targets: str | tuple[str, ...], shapes: int) -> None:
    """LoRA has two matrices beside each target."""
    train = configure(train__adapter="lora", train__lora={"r": 8, "targets": targets}).train
    sides = [(128, 128), (128, 64), (128, 64), (128, 128), (128, 256), (128, 256), (256, 128)]
    wanted = sides if shapes == 7 else [sides[0], sides[2]]
    assert flops.adapter_parameters(train, MILLION) == 8 * 4 * sum(map(sum, wanted))
