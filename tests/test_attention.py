"""Documents that share a batch do not see each other, and lose nothing by sharing it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from smollm3_ft import attention, batches

pytestmark = pytest.mark.process  # imports torch, and trains a step

LENGTHS = [[5], [1, 1, 1], [40, 3, 39, 38, 1, 17], [64, 64, 64], [100, 80, 79, 20, 19, 4, 3]]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)


def documents(lengths: list[int]) -> Iterator[dict[str, Any]]:
    """Random documents, each a sequence by itself."""
    draw = np.random.RandomState(0)
    for length in lengths:
        ids = draw.randint(4, 1000, length)
        yield {"input_ids": ids, "mask": [0] + [1] * (length - 1), "lengths": [length]}


def packed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same documents in one sequence."""
    return {name: np.concatenate([row[name] for row in rows]).tolist() for name in rows[0]}


@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_token_comes_out_once(lengths: list[int]) -> None:
    """Each token has one place among the groups, and stands there among its own document's."""
    groups, place = attention.groups(lengths)
    flat = torch.cat([positions.flatten() for positions in groups])
    assert flat[place].tolist() == list(range(sum(lengths)))
    begins = torch.cat([positions[:, 0] for positions in groups])
    assert sorted(begins.tolist()) == np.cumsum([0, *lengths])[:-1].tolist()


def test_little_is_padding() -> None:
    """On log-normal lengths no more than an eighth of what goes through attention is padding."""
    lengths = np.random.RandomState(1).lognormal(4.5, 0.9, 400).astype(int).clip(2, 2048).tolist()
    groups, _ = attention.groups(lengths)
    assert sum(positions.numel() for positions in groups) <= sum(lengths) * 8 / 7
    assert len(groups) < len(lengths) / 4


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_packed_document_is_as_it_is_alone(model: Any, lengths: list[int]) -> None:
    """What comes out for a document is what comes out for it alone, by transformers' own attention."""
    rows = list(documents(lengths))
    inputs = batches.collate([packed(rows)])
    with torch.no_grad(), attention.per_document(model):
        together = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits[0]
    with torch.no_grad():
        alone = [model(input_ids=torch.from_numpy(row["input_ids"])[None]).logits[0] for row in rows]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_gradients_are_those_of_the_masked_square(model: Any) -> None:
    """Training learns the same as with a square mask over all documents."""
    inputs = batches.collate([packed(list(documents(LENGTHS[-1])))])
    gradients = []
    for name in ("sdpa", attention.NAME):
        model.zero_grad()
        model.set_attn_implementation(name)
        model(**inputs, use_cache=False).loss.backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    model.set_attn_implementation("sdpa")
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_model_s_own_attention_comes_back(model: Any) -> None:
    """After scoring, answers are generated as they were before."""
    with pytest.raises(KeyError), attention.per_document(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
