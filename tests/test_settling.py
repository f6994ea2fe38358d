"""Every auto value is settled by plain arithmetic, and what cannot fit is said before it is tried."""

from typing import Any

import pytest
from conftest import configure

from smollm3_ft import devices, predictions, settling
from smollm3_ft.devices import Device
from smollm3_ft.errors import ConfigError
from smollm3_ft.models import ModelPlan
from smollm3_ft.predictions import Micro, Work
from smollm3_ft.settling import Settings

CPU = Device("cpu", "2 CPU cores", 8 * 2**30, 2.4e10)
H100 = Device("cuda", "H100", 80 * 2**30, 4e14)
MILLION = ModelPlan(
    name="tiny",
    kind="folder",
    revision=None,
    folder="/tiny",
    digest="d",
    chat_digest="c",
    parameters=1_000_000,
    layers=4,
    hidden=128,
    heads=4,
    kv_heads=2,
    head_size=32,
    intermediate=256,
    tied=True,
    vocabulary=1536,
    context=2048,
)
SMOLLM3 = MILLION.model_copy(
    update={
        "parameters": 3_075_098_624,
        "layers": 36,
        "hidden": 2048,
        "heads": 16,
        "kv_heads": 4,
        "head_size": 128,
        "intermediate": 11_008,
        "vocabulary": 128_256,
        "context": 65_536,
    }
)
ALL_AUTO = {
    f"train__{key}": "auto"
    for key in ("effective_batch_size", "batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps")
}


def taking(seconds: float) -> Device:
    """A device that takes so long for a step of eight sequences."""
    step = predictions.seconds(configure(**ALL_AUTO), Work(8, 800, 128), MILLION, CPU)
    return CPU._replace(flops=CPU.flops * step / seconds)


def settled(sequences: int = 1000, model: ModelPlan = MILLION, device: Device = CPU, **given: Any) -> Settings:
    work = Work(sequences, sequences * 100, 128)
    return settling.settle(configure(**{**ALL_AUTO, **given}), work, model, device)


@pytest.mark.parametrize(
    ("sequences", "batch"), [(1, 1), (199, 1), (200, 2), (1000, 8), (3199, 16), (3200, 32), (10**6, 32)]
)
def test_the_usual_batch(sequences: int, batch: int) -> None:
    """An auto batch is the largest power of two up to 32 that leaves a hundred steps an epoch."""
    assert settled(sequences).effective_batch_size == batch


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"effective_batch_size": 12, "batch_size": 4}, (12, 4, 3)),
        ({"batch_size": 4, "gradient_accumulation_steps": 3}, (12, 4, 3)),
        ({"effective_batch_size": 12, "gradient_accumulation_steps": 3}, (12, 4, 3)),
        ({"effective_batch_size": 12}, (12, 12, 1)),
        ({"batch_size": 4}, (8, 4, 2)),
        ({"batch_size": 6}, (6, 6, 1)),
        ({"batch_size": 64}, (64, 64, 1)),
        ({"gradient_accumulation_steps": 4}, (8, 2, 4)),
        ({"gradient_accumulation_steps": 16}, (16, 1, 16)),
    ],
)
def test_batch_sizes_follow_from_each_other(given: dict[str, int], expected: tuple[int, int, int]) -> None:
    """Of effective batch, batch and accumulation, what is auto follows from what is given."""
    settings = settled(**{f"train__{key}": value for key, value in given.items()})
    assert (settings.effective_batch_size, settings.batch_size, settings.gradient_accumulation_steps) == expected


@pytest.mark.parametrize(
    ("effective", "other"),
    [(12, {"batch_size": 5}), (10, {"gradient_accumulation_steps": 4}), (4, {"gradient_accumulation_steps": 8})],
)
def test_sizes_that_do_not_divide(effective: int, other: dict[str, int]) -> None:
    """An effective batch that is no multiple of what is given beside it is refused."""
    with pytest.raises(ConfigError, match=rf"train\.effective_batch_size: {effective} is not batch_size \d"):
        settled(train__effective_batch_size=effective, **{f"train__{key}": value for key, value in other.items()})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (8, 4, 1)),
        ({"effective_batch_size": 12, "batch_size": 2}, (12, 2, 3)),
        ({"effective_batch_size": 12, "gradient_accumulation_steps": 3}, (12, 2, 3)),
        ({"batch_size": 4, "gradient_accumulation_steps": 3}, (24, 4, 3)),
    ],
)
def test_batch_sizes_of_several_processes(given: dict[str, int], expected: tuple[int, int, int]) -> None:
    """The effective batch is that of all processes together, the batch that of each."""
    settings = settled(compute__num_processes=2, **{f"train__{key}": value for key, value in given.items()})
    assert (settings.effective_batch_size, settings.batch_size, settings.gradient_accumulation_steps) == expected
    assert (settings.processes, settings.strategy) == (2, "ddp")


def test_a_batch_that_is_not_dealt_out_evenly() -> None:
    """An effective batch that is no multiple of the processes is refused."""
    with pytest.raises(ConfigError, match=r"train\.effective_batch_size: 7 is not batch_size 3 .* × num_processes 2"):
        settled(compute__num_processes=2, train__effective_batch_size=7)


def test_more_processes_than_gpus() -> None:
    """Each process needs a GPU of its own, and what there is is named; a CPU is shared by any number."""
    said = r"compute\.num_processes: 3 need a GPU each, there are 2; use at most 2"
    with pytest.raises(ConfigError, match=said):
        settled(device=H100._replace(number=2), compute__num_processes=3)
    assert settled(compute__num_processes=3, train__effective_batch_size=12).processes == 3


def test_a_model_that_does_not_fit_is_spread() -> None:
    """Auto takes whole models where they fit each device, and spreads one over the devices where they do not."""
    small = H100._replace(memory=40 * 2**30, number=2)
    for device, strategy in ((H100._replace(number=2), "ddp"), (small, "fsdp2")):
        settings = settled(model=SMOLLM3, device=device, compute__num_processes=2, train__effective_batch_size=2)
        assert settings.strategy == strategy


def test_four_bits_are_not_spread() -> None:
    """QLoRA's weights are whole in each process; spreading them is refused."""
    given = {"compute__num_processes": 2, "train__adapter": "qlora"}
    assert settled(**given).strategy == "ddp"
    with pytest.raises(ConfigError, match=r"compute\.strategy: fsdp2 does not spread the 4-bit weights.*use ddp"):
        settled(**given, compute__strategy="fsdp2")


def test_more_gpus_take_less_time() -> None:
    """Two GPUs share the tokens; two processes on a CPU share its cores."""
    work = Work(1000, 100_000, 128)
    two, one = configure(compute__num_processes=2), configure()
    assert predictions.seconds(two, work, MILLION, H100) == predictions.seconds(one, work, MILLION, H100) / 2
    assert predictions.seconds(two, work, MILLION, CPU) == predictions.seconds(one, work, MILLION, CPU)


def test_a_small_device_accumulates() -> None:
    """Where a whole batch does not fit at once, it is taken in parts that do."""
    needed = predictions.memory(configure(**ALL_AUTO), MILLION, CPU, Micro(2 * 128, accumulates=True))
    small = Device("cpu", "small", int(needed / devices.ROOM) + 1, 1e10)
    settings = settled(device=small, train__effective_batch_size=8, train__gradient_checkpointing=False)
    assert (settings.batch_size, settings.gradient_accumulation_steps) == (2, 4)


def test_a_model_that_does_not_fit() -> None:
    """A model too large for the device is refused with what it needs, what there is, and what to do."""
    said = r"train\.batch_size: one sequence of 128 tokens needs 4\d\.\d GiB, 2 CPU cores has 8\.0 GiB; use "
    with pytest.raises(ConfigError, match=said):
        settled(model=SMOLLM3, device=CPU)


def test_smollm3_fits_a_large_gpu() -> None:
    """Full fine-tuning of SmolLM3-3B fits 80 GiB."""
    assert settled(model=SMOLLM3, device=H100).batch_size >= 1


@pytest.mark.parametrize(("method", "rate"), [("sft", 2e-5), ("dpo", 1e-6)])
@pytest.mark.parametrize(("adapter", "times"), [("none", 1), ("lora", 10), ("qlora", 10)])
def test_learning_rate_follows_method_and_adapter(method: str, rate: float, adapter: str, times: int) -> None:
    """An auto learning rate is far lower for pairs, and ten times as large for an adapter."""
    found = settled(train__method=method, train__adapter=adapter).learning_rate
    assert found == pytest.approx(times * rate)


@pytest.mark.parametrize(
    ("given", "steps", "epochs"),
    [
        ({"epochs": 2}, 250, 2.0),
        ({"epochs": 0.5}, 63, 0.504),
        ({"max_steps": 25}, 25, 0.2),
        ({"max_steps": 500, "epochs": 1}, 500, 4.0),
    ],
)
def test_steps(given: dict[str, float], steps: int, epochs: float) -> None:
    """Steps follow from the epochs, unless they are given."""
    settings = settled(**{f"train__{key}": value for key, value in given.items()})
    assert (settings.steps, settings.epochs) == (steps, epochs)


def test_fewer_sequences_than_a_batch() -> None:
    """An epoch has at least a step."""
    assert settled(3, train__effective_batch_size=8, train__epochs=4).steps == 4


def test_intervals_follow_the_steps() -> None:
    """Warm-up is 3 % of the steps, and there are about ten checkpoints and five validations."""
    settings = settled(device=taking(60), train__max_steps=50)
    assert (settings.warmup_steps, settings.save_steps, settings.eval_steps) == (2, 5, 10)


def test_warm_up_ends_within_the_run() -> None:
    """A warm-up longer than the run would never reach the learning rate: it is refused."""
    assert settled(train__max_steps=5, train__warmup_steps=5).warmup_steps == 5
    with pytest.raises(ConfigError, match=r"train\.warmup_steps: 6 are more than the run's 5 steps"):
        settled(train__max_steps=5, train__warmup_steps=6)


def test_slow_steps_are_saved_more_often() -> None:
    """A crash costs at most ten minutes: with steps of a minute, every ten."""
    assert settled(device=taking(60), train__max_steps=1000).save_steps == 10


def test_saving_takes_a_fiftieth_of_the_time() -> None:
    """Where a checkpoint takes long to write, there are fewer: with 15 seconds a save and 3 a step, every 250 steps."""
    work, speed = Work(1000, 100_000, 128), MILLION.parameters * 12 / 14.85
    config = configure(**ALL_AUTO, train__max_steps=2000)
    assert settling.settle(config, work, MILLION, taking(3), speed).save_steps == 250


def test_a_short_training_is_saved_at_its_end() -> None:
    """However fast the steps are, a checkpoint comes within the run."""
    assert settled(train__max_steps=3).save_steps == 3


def test_given_values_stay() -> None:
    """What was given is not settled otherwise."""
    given = {
        "learning_rate": 1e-3,
        "warmup_steps": 7,
        "save_steps": 9,
        "eval_steps": 11,
        "gradient_checkpointing": True,
    }
    settings = settled(**{f"train__{key}": value for key, value in given.items()})
    assert {key: getattr(settings, key) for key in given} == given


def test_predictions_grow_with_the_epochs() -> None:
    """Twice the epochs take twice the tokens and the time, and the same memory."""
    work = Work(1000, 100_000, 128)
    once, twice = (
        settling.predict(config, settling.settle(config, work, MILLION, CPU), work, MILLION, CPU)
        for config in (configure(train__epochs=1), configure(train__epochs=2))
    )
    assert (twice.tokens, twice.seconds) == (2 * once.tokens, pytest.approx(2 * once.seconds))
    assert twice.memory_bytes == once.memory_bytes


def test_more_checkpoints_take_more_disk() -> None:
    """train.save_total_limit is paid for in disk."""
    work, needed = Work(1000, 100_000, 128), []
    for limit in (1, 5):
        config = configure(train__save_total_limit=limit)
        needed.append(settling.predict(config, settling.settle(config, work, MILLION, CPU), work, MILLION, CPU))
    assert needed[1].disk_bytes - needed[0].disk_bytes == 4 * needed[0].checkpoint_bytes
