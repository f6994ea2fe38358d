"""The adapter that fits, and what QLoRA needs to be there."""

from typing import Any

import pytest
from conftest import configure, facts, write_rows
from test_settling import SMOLLM3

from smollm3_ft import adapters, plan, predictions
from smollm3_ft.devices import ROOM, Device
from smollm3_ft.errors import ConfigError
from smollm3_ft.predictions import Micro, Work

WORK = Work(1000, 1_000_000, 1024)
ONE_AT_A_TIME = {"train__batch_size": 1, "model__dtype": "bfloat16"}


def gpu(memory: float) -> Device:
    return Device("cuda", "a GPU", int(memory), 1e14)


def needed(adapter: str) -> int:
    """Bytes for SmolLM3-3B, one sequence at a time."""
    config = configure(train__adapter=adapter, **ONE_AT_A_TIME)
    return predictions.memory(config, SMOLLM3, gpu(1), Micro(WORK.longest, checkpointing=1))


def chosen(memory: float, **given: Any) -> str:
    config = configure(**{"train__adapter": "auto", **ONE_AT_A_TIME, **given})
    return adapters.settled(config, WORK, SMOLLM3, gpu(memory)).train.adapter


@pytest.fixture
def quantizing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if bitsandbytes were installed."""
    monkeypatch.setattr(adapters, "can_quantize", lambda: True)


@pytest.fixture
def not_quantizing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not."""
    monkeypatch.setattr(adapters, "can_quantize", lambda: False)


def test_each_takes_less_than_the_one_before() -> None:
    """Of SmolLM3-3B four bits are a good gigabyte and a half less than a half of sixteen, and so on."""
    full, lora, qlora = (needed(adapter) / 2**30 for adapter in ("none", "lora", "qlora"))
    assert full > 45
    assert 6 < lora < 10
    assert 2 < qlora < lora - 3.5


@pytest.mark.parametrize("adapter", ["none", "lora", "qlora"])
def test_auto_is_the_largest_that_fits(quantizing: None, adapter: str) -> None:
    """With just the memory that one of them needs, it is that one."""
    assert chosen(needed(adapter) / ROOM + 1) == adapter


def test_auto_without_bitsandbytes(not_quantizing: None) -> None:
    """What cannot run is not chosen, even where nothing else fits: then the batch is what is said to be too large."""
    assert chosen(needed("qlora") / ROOM + 1) == "lora"


def test_what_was_asked_for_stays(quantizing: None) -> None:
    """An adapter that was named is used, whatever the memory."""
    assert chosen(1, train__adapter="none") == "none"
    assert chosen(1e15, train__adapter="qlora") == "qlora"


def test_qlora_without_bitsandbytes_is_said_at_once(not_quantizing: None, tmp_path: Any) -> None:
    """The plan says what to install, before anything is looked at."""
    config = configure(train__adapter="qlora", data__source=str(tmp_path / "none"), runs_dir=str(tmp_path / "runs"))
    with pytest.raises(ConfigError) as caught:
        plan.make(config)
    (problem,) = caught.value.problems
    assert problem.where == "train.adapter"
    assert "make setup EXTRAS=gpu" in problem.remedy


def test_the_plan_shows_what_auto_is(tmp_path: Any) -> None:
    """The estimate has the settled adapter; the built-in model is trained in full on any machine."""
    rows = write_rows(tmp_path / "rows.jsonl", facts(40))
    made = plan.make(configure(train__adapter="auto", data__source=str(rows), runs_dir=str(tmp_path / "runs")))
    assert made.estimate.settings is not None
    assert made.estimate.settings.adapter == "none"
    assert ("adapter", "none") in plan.facts(made, {})
