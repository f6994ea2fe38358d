"""What a journal line says of the work since the line before."""

from typing import Any

import pytest
import torch

from smollm3_ft import batches, progress

pytestmark = pytest.mark.process  # imports torch


def two_steps(monkeypatch: pytest.MonkeyPatch, **given: Any) -> progress.Progress:
    """Two steps of 20 tokens and 50 operations each, in four seconds."""
    now = iter([100.0, 104.0, 104.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    told = progress.Progress()
    row = {"input_ids": [1] * 20, "mask": [0] + [1] * 19, "lengths": [12, 8]}
    for _ in range(2):
        told.add(torch.tensor(1.5), batches.collate([row], **given), flops=50.0)
        told.end_step()
    return told


def test_mfu_is_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations a second are told as a share of the device's peak."""
    values = two_steps(monkeypatch).line(0, peak_flops=100.0)
    assert (values["mfu"], values["tokens_per_second"]) == (0.25, 10.0)


def test_no_mfu_without_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no peak is known none is made up."""
    assert "mfu" not in two_steps(monkeypatch).line(0, peak_flops=None)


@pytest.mark.parametrize(("kernel", "padding"), [(True, 0.0), (False, 4 / 24)])
def test_padding_is_what_attention_pads(monkeypatch: pytest.MonkeyPatch, kernel: bool, padding: float) -> None:
    """The kernel pads nothing; documents that go through attention together are as long as the longest."""
    assert two_steps(monkeypatch, kernel=kernel).line(0, None)["padding_share"] == padding
