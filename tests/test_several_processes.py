"""Two processes train as one does: the same sequences, the same losses, the same end however they were disturbed."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakePlan, facts
from safetensors.numpy import load_file
from several import Job, forked, killed_at, launched, taken, write_programs
from trained import Trained

from smollm3_ft import checkpoints, devices, files, fit, order, processes, ranks, shards
from smollm3_ft.errors import ConfigError, ProcessDied, Stopped

pytestmark = pytest.mark.process

SEQUENCES = 57  # eight steps an epoch; the last one has a single sequence, and so one process none
SETTINGS = {
    "data__packing": False,
    "data__validation": 5,
    "data__test": "none",
    "train__effective_batch_size": 8,
    "train__max_steps": 20,
    "train__warmup_steps": 4,
    "train__save_steps": 4,
    "train__eval_steps": 5,
    "train__logging_steps": 1,
}
TWO = {"compute__num_processes": 2, "train__batch_size": 2}
SHARDED = {**TWO, "compute__strategy": "fsdp2"}
LORA = {"train__adapter": "lora", "train__lora": {"r": 4, "dropout": 0.0}}


@pytest.fixture(scope="module")
def runs_trained(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Runs of one and of two processes, trained one after the other."""
    folder = tmp_path_factory.mktemp("ranks")
    write_programs(folder)
    given = {
        "one": {"train__batch_size": 4},
        "one killed": {"train__batch_size": 4},
        "two": TWO,
        "disturbed": TWO,
        "sharded": SHARDED,
        "sharded killed": SHARDED,
        "lora": {**TWO, **LORA},
        "sharded lora killed": {**SHARDED, **LORA},
    }
    plans = {
        name: make_plan(folder / "runs", name.replace(" ", "-"), facts(SEQUENCES + 5), **{**SETTINGS, **more})
        for name, more in given.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        ends: dict[str, list[Any]] = {name: [] for name in plans}
        # Killed at a checkpoint in the middle of the second epoch; then one of the two is told to stop.
        for signal in (("1", "checkpoint", "12", "SIGKILL"), ("1", "train", "14", "SIGTERM")):
            ends["disturbed"].append(launched(Job(plans["disturbed"], 2, signal)))
        killed = ("1", "checkpoint", "12", "SIGKILL"), ("0", "checkpoint", "20", "SIGKILL")
        jobs = {name: [Job(plan, plan.settings.processes)] for name, plan in plans.items()}
        jobs["one killed"] = killed_at(plans["one killed"], "checkpoint", 12)
        for name, signals in {"sharded killed": killed, "sharded lora killed": killed[:1]}.items():
            jobs[name] = [*(Job(plans[name], 2, signal) for signal in signals), *jobs[name]]
        jobs["two"].append(Job(plans["two"], 1))
        found = iter(forked(folder, *itertools.chain(*jobs.values())))
        for name, several in jobs.items():
            ends[name] += [next(found) for _ in several]
    return {name: Trained(plan, ends[name]) for name, plan in plans.items()}


def weights(trained: Trained) -> dict[str, Any]:
    return dict(load_file(trained.folder / "model" / "model.safetensors"))


def losses(trained: Trained, kind: str) -> list[float]:
    return [values["loss"] for _, _, values in trained.told(kind)]


def difference(one: Trained, other: Trained) -> float:
    """The largest difference of a weight."""
    before, after = weights(one), weights(other)
    assert sorted(before) == sorted(after)
    return max(float(np.abs(before[name] - after[name]).max()) for name in before)


def test_how_they_ended(runs_trained: dict[str, Trained]) -> None:
    """Undisturbed ones end well; one process that is killed ends the others; one that is told to stop stops all."""
    for name in ("one", "two", "sharded", "lora"):
        assert set(runs_trained[name].ends[0]) == {0}
    killed, stopped, ended = runs_trained["disturbed"].ends
    assert isinstance(killed, ProcessDied)
    assert "SIGKILL" in str(killed)
    assert isinstance(stopped, Stopped)
    assert ended == [0, 0]


@pytest.mark.parametrize("name", ["two", "sharded"])
@pytest.mark.parametrize("kind", ["train", "eval"])
def test_the_loss_curve_is_that_of_one_process(runs_trained: dict[str, Trained], name: str, kind: str) -> None:
    """At the same effective batch the losses of training and validation are the same at every step."""
    assert losses(runs_trained[name], kind) == pytest.approx(losses(runs_trained["one"], kind), rel=1e-5)


def test_counts_are_of_all_processes(runs_trained: dict[str, Trained]) -> None:
    """Tokens, trained ones and accuracy in the journal are those of one process that does all the work."""
    names = ("tokens", "supervised_tokens", "token_accuracy")
    one, two = ([[values[n] for n in names] for _, _, values in runs_trained[r].told("train")] for r in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("name", ["one", "one killed", "two", "disturbed", "sharded killed"])
def test_every_step_takes_the_sequences_that_are_said(runs_trained: dict[str, Trained], name: str) -> None:
    """What goes through the models, killed and resumed within an epoch too, is what `sequences_of_step` says."""
    plan = runs_trained[name].plan
    rows = shards.read(Path(plan.prepared.folder) / "train.arrow")["input_ids"].to_pylist()
    steps = taken(plan, plan.settings.processes)
    assert sorted(steps) == list(range(1, 21))
    for step, shares in steps.items():
        said = [rows[index] for index in order.sequences_of_step(plan.config.seed, step, SEQUENCES, 8)]
        micro_batches = itertools.zip_longest(*shares)  # the shares of all processes, one micro-batch after the other
        given = itertools.chain(*(share for micro_batch in micro_batches for share in micro_batch))
        assert list(given) == list(itertools.chain(*said))


def test_a_process_without_sequences_goes_along(runs_trained: dict[str, Trained]) -> None:
    """The last step of an epoch has one sequence for two processes: one trains nothing, and the step is made."""
    shares = taken(runs_trained["two"].plan, 2)[8]
    assert [[len(tokens) > 0 for tokens in share] for share in shares] == [[True], [False]]


def test_a_disturbed_training_ends_the_same(runs_trained: dict[str, Trained]) -> None:
    """Killed and stopped, two processes end with the bytes of two undisturbed ones, and with the same journal."""
    two, disturbed = runs_trained["two"], runs_trained["disturbed"]
    assert difference(two, disturbed) == 0
    assert disturbed.told("train", "eval") == two.told("train", "eval")


def test_all_stop_behind_the_same_step(runs_trained: dict[str, Trained]) -> None:
    """One process was told to stop in its 14th step: both saved behind it, and that is where they went on."""
    events = [(values["what"], step) for _, step, values in runs_trained["disturbed"].told("event")]
    assert [event for event in events if event[0] != "checkpoint"] == [
        ("started", 0),
        ("resumed", 12),
        ("interrupted", 15),
        ("resumed", 15),
        ("finished", 20),
    ]


def test_a_sharded_training_ends_the_same(runs_trained: dict[str, Trained]) -> None:
    """Killed in the middle and behind its last step, a sharded training ends with the bytes of an undisturbed one."""
    sharded, killed = runs_trained["sharded"], runs_trained["sharded killed"]
    assert [-9 in codes for codes in killed.ends] == [True, True, False]
    assert difference(sharded, killed) == 0
    assert killed.told("train", "eval") == sharded.told("train", "eval")


def test_a_sharded_model_is_the_same_one(runs_trained: dict[str, Trained]) -> None:
    """Gathered at the end, it is the model that two whole ones become."""
    assert difference(runs_trained["two"], runs_trained["sharded"]) < 1e-5


def test_a_sharded_checkpoint_is_in_parts(runs_trained: dict[str, Trained]) -> None:
    """Each process writes its part of weights and moments, and the manifest lists them all."""
    newest = checkpoints.complete(runs_trained["sharded"].folder / "checkpoints")[-1]
    listed = files.read_json(newest / checkpoints.MANIFEST)["files"]
    for kind in ("pytorch_model_fsdp_0", "optimizer_0"):
        assert {f"{kind}/__0_0.distcp", f"{kind}/__1_0.distcp", f"{kind}/.metadata"} <= set(listed)
    assert not (newest / "model.safetensors").exists()
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(listed)


def test_a_sharded_adapter(runs_trained: dict[str, Trained]) -> None:
    """With LoRA too, sharded, killed and resumed, it is the model of two whole ones."""
    killed = runs_trained["sharded lora killed"]
    assert [-9 in codes for codes in killed.ends] == [True, False]
    assert difference(runs_trained["lora"], killed) < 1e-5
    assert losses(killed, "eval") == pytest.approx(losses(runs_trained["lora"], "eval"), rel=1e-5)


def test_another_number_of_processes_is_refused(runs_trained: dict[str, Trained]) -> None:
    """A plan for two processes is not carried out by one, which ends before it writes anything."""
    assert runs_trained["two"].ends[1] == [processes.FAILED]
    assert runs_trained["two"].lines[-1]["values"] == {"what": "finished"}
    with pytest.raises(ConfigError, match=r"the plan is for 2 processes, 1 were started; .*--num_processes 2"):
        ranks.check_count(2)


def test_a_run_does_not_go_on_with_other_processes(runs_trained: dict[str, Trained]) -> None:
    """A run that is to go on with another number of processes, or another strategy, is told how it began."""
    plan = runs_trained["two"].plan
    for key, value, said in (("num_processes", 1, "is 1, .* with 2"), ("strategy", "fsdp2", "is fsdp2, .* with ddp")):
        compute = plan.config.compute.model_copy(update={key: value})
        with pytest.raises(ConfigError, match=rf"compute\.{key}: {said}; go on with .*--fresh"):
            fit.check_processes(plan, plan.config.model_copy(update={"compute": compute}))


def test_the_machines_are_those_of_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many machines train together is what `accelerate config` was told; one, where it was not."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert devices.machines() == 1
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_machines: 2\nmachine_rank: 0\n")
    assert devices.machines() == 2
