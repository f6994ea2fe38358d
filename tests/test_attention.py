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


def by_document(q: Any, k: Any, v: Any, starts: Any, _: Any, longest: int, __: int, **given: Any) -> Any:
    """What torch's variable-length kernel says that it computes, in plain words."""
    assert given.pop("window_size") == (-1, 0)  # causal
    assert starts.dtype == torch.int32
    assert longest == starts.diff().max()
    parts = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        one = (states[begin:end].transpose(0, 1) for states in (q, k, v))
        parts.append(torch.nn.functional.scaled_dot_product_attention(*one, is_causal=True, **given).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_kernel_is_told_where_documents_begin(
    model: Any, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU's kernel is handed makes of it what the way of the CPU does."""
    monkeypatch.setattr(attention, "varlen_attn", by_document)
    found = []
    for kernel in (False, True):
        inputs = batches.collate([packed(list(documents(lengths)))], kernel)
        told = {name: value for name, value in inputs.items() if name not in batches.BESIDE_THE_MODEL}
        with torch.no_grad(), attention.per_document(model):
            found.append(model(**told, use_cache=False).logits)
    assert torch.allclose(*found, atol=1e-5)


def test_torch_s_kernel_takes_what_it_is_given() -> None:
    """The installed torch's kernel accepts grouped heads, and queries in float32 beside bf16 values, back and forth."""
    told = attention.layout([7, 5], kernel=True)
    query = torch.empty(1, 16, 12, 128, device="meta", requires_grad=True)
    key = torch.empty(1, 4, 12, 128, device="meta", requires_grad=True)
    value = torch.empty(1, 4, 12, 128, device="meta", dtype=torch.bfloat16, requires_grad=True)
    told["starts"] = told["starts"].to("meta")
    out, _ = attention.forward(torch.nn.Module(), query, key, value, None, scaling=0.1, **told)
    assert (out.shape, out.dtype) == ((1, 12, 16, 128), torch.bfloat16)
    out.sum().backward()
    assert [one.grad.shape for one in (query, key, value) if one.grad is not None] == [
        (1, 16, 12, 128),
        (1, 4, 12, 128),
        (1, 4, 12, 128),
    ]


def test_the_kernel_is_for_gpus_and_half_precision() -> None:
    """On a CPU nothing goes through the kernel, and float32 nowhere."""
    assert not attention.has_kernel(torch.device("cpu"), torch.bfloat16)
    assert not attention.has_kernel(torch.device("cuda"), torch.float32)


def test_what_is_counted_beforehand() -> None:
    """The positions before trained tokens and the squared lengths are those of the batch."""
    rows = list(documents([5, 3]))
    inputs = batches.collate(rows)
    assert inputs["squared"] == 25 + 9
    assert inputs["before"].tolist() == [0, 1, 2, 3, 5, 6]
    assert (inputs["labels"][0, inputs["before"] + 1] != batches.IGNORED).all()


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
