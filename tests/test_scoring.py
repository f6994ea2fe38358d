"""The loss of a row is the same in whatever batch or packed sequence it stands."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prepare, facts
from torch.nn import functional
from transformers import AutoModelForCausalLM

from smollm3_ft import attention, batches, scoring, shards
from smollm3_ft.data import Prepared
from smollm3_ft.scoring import Score

PAD = 3
ALONE = {"validation": "none", "test": "none", "max_length": 96}


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    """The built-in model in float32, as it is trained, with noise in its norms so that no scale is one."""
    torch.manual_seed(0)
    loaded = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, weight in loaded.named_parameters():
            if "norm" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    return loaded


def sequences(prepared: Prepared) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shards.read(Path(prepared.folder) / "train.arrow").to_pylist()
    return rows


@torch.no_grad()
def straight(model: Any, row: dict[str, Any]) -> Score:
    """The score of a row of one document, computed as it is defined."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
    loss, tokens, correct = 0.0, 0, 0
    for position in range(1, len(row["input_ids"])):
        if row["mask"][position]:
            target = row["input_ids"][position]
            loss -= float(functional.log_softmax(logits[position - 1], -1)[target])
            tokens += 1
            correct += int(logits[position - 1].argmax()) == target
    return Score(loss, tokens, correct)


@torch.no_grad()
def losses_by_document(model: Any, rows: list[dict[str, Any]]) -> dict[int, list[float]]:
    """The loss of every trained token, by the line of its document, from one batch of the given sequences."""
    inputs = batches.collate(rows)
    labels = inputs.pop("labels")[0, 1:]
    with attention.per_document(model):
        logits = model(**inputs, use_cache=False).logits[0, :-1]
    losses = functional.cross_entropy(logits, labels, reduction="none", ignore_index=batches.IGNORED)
    found = {}
    end = 0
    for length, line in ((n, line) for row in rows for n, line in zip(row["lengths"], row["lines"], strict=True)):
        start, end = end, end + length
        part = slice(max(0, start - 1), end - 1)  # the loss of a token stands where the token before it does
        found[line] = losses[part][labels[part] != batches.IGNORED].tolist()
    return found


@pytest.mark.parametrize("tokens_at_once", [1, 200, 10_000])
def test_score_is_as_defined(model: Any, prepare: Prepare, tokens_at_once: int) -> None:
    """Losses, tokens and hits are those of a straightforward computation, row by row and in order."""
    rows = sequences(prepare(facts(12), packing=False, **ALONE))
    found = scoring.score(model, rows, tokens_at_once)
    expected = [straight(model, row) for row in rows]
    assert [(one.tokens, one.correct) for one in found] == [(one.tokens, one.correct) for one in expected]
    assert [one.loss for one in found] == pytest.approx([one.loss for one in expected], rel=1e-5)


def test_parts_of_the_logits_do_not_matter(model: Any, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary-wide logits are made in parts; the losses are those of the whole."""
    rows = sequences(prepare(facts(12), packing=False, **ALONE))
    whole = scoring.score(model, rows, 10_000)
    monkeypatch.setattr(scoring, "POSITIONS_AT_ONCE", 7)
    parts = scoring.score(model, rows, 10_000)
    assert [one.loss for one in parts] == pytest.approx([one.loss for one in whole], rel=1e-5)
    assert [one.tokens for one in parts] == [one.tokens for one in whole]


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_packed_documents_do_not_see_each_other(model: Any, prepare: Prepare, loss_on: str) -> None:
    """Every token of a packed document has the loss that it has alone, to 1e-5 in float32."""
    alone = sequences(prepare(facts(24), packing=False, loss_on=loss_on, **ALONE))
    packed = sequences(prepare(facts(24), packing=True, loss_on=loss_on, **ALONE))
    assert max(len(row["lengths"]) for row in packed) > 1
    expected: dict[int, list[float]] = {}
    for row in alone:
        expected |= losses_by_document(model, [row])
    found = losses_by_document(model, packed)
    assert sorted(found) == sorted(expected) == list(range(1, 25))
    for line, losses in expected.items():
        assert found[line] == pytest.approx(losses, abs=1e-5)


def test_padding_changes_nothing(model: Any, prepare: Prepare) -> None:
    """A row beside a longer one has the losses that it has alone."""
    rows = sequences(prepare(facts(8), packing=False, **ALONE))
    assert len({len(row["input_ids"]) for row in rows}) > 1
    together = losses_by_document(model, rows)
    for row in rows:
        for line, losses in losses_by_document(model, [row]).items():
            assert together[line] == pytest.approx(losses, abs=1e-5)


def test_positions_begin_again_at_every_document() -> None:
    """Documents lie one behind the other, each with positions of its own, without padding."""
    rows = [
        {"input_ids": [5, 6, 7, 8, 9], "mask": [0, 1, 1, 0, 1], "lengths": [3, 2]},
        {"input_ids": [5, 6], "mask": [0, 1], "lengths": [2]},
    ]
    found = batches.collate(rows)
    assert found["input_ids"].tolist() == [[5, 6, 7, 8, 9, 5, 6]]
    assert found["labels"].tolist() == [[-100, 6, 7, -100, 9, -100, 6]]
    assert found["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("at_once", [1, 300, 2**20])
def test_cross_entropy_is_torch_s(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, at_once: int
) -> None:
    """In whatever pieces, loss and gradient are those of torch's own, and as exact as the logits' type is."""
    monkeypatch.setitem(scoring.LOGITS_AT_ONCE, "cpu", at_once)
    torch.manual_seed(0)
    logits = (20 * torch.randn(23, 100)).to(dtype).requires_grad_()
    targets = torch.randint(0, 100, (23,))
    loss = scoring.cross_entropy(logits, targets)
    (loss / 7).backward()
    reference = logits.detach().double().requires_grad_()
    expected = functional.cross_entropy(reference, targets, reduction="sum")
    (expected / 7).backward()
    assert logits.grad is not None
    assert reference.grad is not None
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(logits.grad.double(), reference.grad, atol=tolerance / 7)


def test_no_trained_token_is_no_loss() -> None:
    """A micro-batch without a trained token adds nothing, and its gradient is zero."""
    weight = torch.ones(100, 5, requires_grad=True)
    scoring.cross_entropy(torch.zeros(0, 5) @ weight.T, torch.zeros(0, dtype=torch.long)).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_scores_are_added_up() -> None:
    """Of several scores one: a mean taken from it is over tokens, not over rows."""
    assert scoring.summed([Score(10.0, 10, 1), Score(90.0, 30, 2)]) == Score(100.0, 40, 3)


def test_no_rows(model: Any) -> None:
    """Nothing held out gives no scores."""
    assert scoring.score(model, [], 100) == []


def test_the_model_is_put_back(model: Any, prepare: Prepare) -> None:
    """A model that is training goes on training, and no gradient is left."""
    rows = sequences(prepare(facts(3), packing=False, **ALONE))
    for training in (True, False):
        model.train(training)
        scoring.score(model, rows, 100)
        assert model.training is training
    assert all(weight.grad is None for weight in model.parameters())


def test_groups_hold_every_row_once() -> None:
    """Rows are grouped by length, each once, and no group of several exceeds the tokens at once."""
    rows = [{"input_ids": [0] * length} for length in (5, 90, 17, 17, 40, 3, 90)]
    groups = list(scoring._grouped(rows, 100))
    assert sorted(itertools.chain(*groups)) == list(range(7))
    for group in groups:
        assert len(group) == 1 or sum(len(rows[index]["input_ids"]) for index in group) <= 100


def test_too_large_batches_are_made_smaller(model: Any, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory runs out, fewer rows are taken at once, and the scores are the same."""
    rows = sequences(prepare(facts(20), packing=False, **ALONE))
    expected, forward, taken = scoring.score(model, rows, 10_000), model.model.forward, []

    def limited(**inputs: Any) -> Any:
        taken.append(inputs["input_ids"].numel())
        if taken[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    monkeypatch.setattr(model.model, "forward", limited)
    for mine, whole in zip(scoring.score(model, rows, 10_000), expected, strict=True):
        assert mine == pytest.approx(whole, abs=1e-4)
    assert max(taken) > 100 >= taken[-1]
