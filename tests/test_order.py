"""Which sequences a step is made of can be said afterwards, because training asked the same function."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MakePlan, facts

from smollm3_ft import order, processes, shards
from smollm3_ft.errors import ProcessDied

# The training process, writing down the tokens of every micro-batch, and killed at the checkpoint of a step.
RECORDED = """
import json, os, signal, sys
from smollm3_ft import journal, processes, sft, training

step, record = int(sys.argv.pop()), sys.argv.pop()
train, write = sft.SftTrainer.training_step, journal.Journal.write


def recorded(self, model, inputs, *rest, **named):
    with open(record, "a") as file:
        file.write(json.dumps([self.state.global_step + 1, inputs["input_ids"].tolist()]) + "\\n")
    return train(self, model, inputs, *rest, **named)


def then_die(self, written, values, at=None):
    write(self, written, values, at)
    if at == step and values.get("what") == "checkpoint":
        os.kill(os.getpid(), signal.SIGKILL)


sft.SftTrainer.training_step, journal.Journal.write = recorded, then_die
os._exit(processes.child(training.main))
"""
SEQUENCES = 23  # six steps of four, the last of three; micro-batches of two, the last of one
SETTINGS = {
    "data__packing": False,
    "data__validation": "none",
    "data__test": "none",
    "train__batch_size": 2,
    "train__effective_batch_size": 4,
    "train__epochs": 2,
    "train__save_steps": 4,
    "train__warmup_steps": 0,
}


def test_an_epoch_takes_every_sequence_once() -> None:
    """The order of an epoch is a permutation, another one for another epoch or seed, and always the same."""
    orders = [order.epoch_order(seed, epoch, 100) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert all(np.array_equal(np.sort(one), np.arange(100)) for one in orders)
    assert len({one.tobytes() for one in orders}) == 3
    assert np.array_equal(order.epoch_order(1, 1, 100), orders[1])


def test_the_order_is_not_to_change() -> None:
    """A run of last year is asked for its rows: these numbers must stay."""
    assert order.epoch_order(42, 1, 8).tolist() == [1, 2, 5, 6, 0, 3, 4, 7]


@pytest.mark.parametrize(("count", "effective"), [(23, 4), (24, 4), (3, 8), (1, 1)])
def test_the_steps_of_an_epoch_are_the_epoch(count: int, effective: int) -> None:
    """One after the other, an epoch's steps take its order; its last step takes what is left."""
    steps = -(-count // effective)
    for epoch in range(3):
        taken = [order.sequences_of_step(7, epoch * steps + step, count, effective) for step in range(1, steps + 1)]
        assert np.array_equal(np.concatenate(taken), order.epoch_order(7, epoch, count))
        assert order.epoch_of_step((epoch + 1) * steps, count, effective) == epoch


@pytest.mark.process
def test_training_takes_the_sequences_that_are_said(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a training put through its model, killed and resumed within an epoch, is what `sequences_of_step` says."""
    (tmp_path / "recorded.py").write_text(RECORDED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plan = make_plan(tmp_path / "runs", "recorded", facts(SEQUENCES), **SETTINGS)
    words = (f"{plan.folder}/plan.json", str(tmp_path / "record.jsonl"))
    with pytest.raises(ProcessDied):
        processes.run("recorded", *words, "8", on_line=print)
    processes.run("recorded", *words, "0", on_line=print)

    rows = shards.read(Path(plan.prepared.folder) / "train.arrow")["input_ids"].to_pylist()
    taken: dict[int, list[list[int]]] = {}
    for line in (tmp_path / "record.jsonl").read_text().splitlines():
        step, batch = json.loads(line)
        taken.setdefault(step, []).extend(batch)
    assert list(taken) == list(range(1, 13))
    for step, given in taken.items():
        said = [rows[index] for index in order.sequences_of_step(plan.config.seed, step, SEQUENCES, 4)]
        assert list(itertools.chain(*given)) == list(itertools.chain(*said))
