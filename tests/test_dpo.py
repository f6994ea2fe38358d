"""Preference pairs: the chosen answer becomes likelier than the rejected one, and it all comes out the same again."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakePlan
from pairs_of_the_demo import capitals
from several import Job, in_turn, killed_at, write_programs
from trained import STEPS, Trained

from smollm3_ft import evaluation, journal, losses, pairs, reference, scoring, shards, trainers
from smollm3_ft.errors import ProcessDied
from smollm3_ft.fit import TrainingPlan

pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),  # TRL's and PEFT's own calls
]

Build = Callable[[TrainingPlan], Any]
APO = {
    **STEPS,
    "train__method": "dpo",
    "train__loss": "apo_zero",
    "train__beta": 0.1,
    "train__learning_rate": 3e-3,
    "train__max_steps": 45,  # in the middle of an epoch, whose last step has micro-batches of different sizes
    "train__save_steps": 20,
    "train__eval_steps": 15,
    "train__logging_steps": 1,
}
LORA = {"train__adapter": "lora", "train__lora": {"dropout": 0.1}, "train__loss": "sigmoid"}


@pytest.fixture(scope="module")
def runs_trained(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Runs trained on pairs: one as it is, one killed at its first checkpoint."""
    folder = tmp_path_factory.mktemp("dpo")
    write_programs(folder)
    whole, killed = (make_plan(folder / "runs", name, capitals(), **APO) for name in ("whole", "killed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        ends = in_turn(folder, {"whole": [Job(whole, 1)], "killed": killed_at(killed, "checkpoint", 20)})
    return {"whole": Trained(whole, ends["whole"]), "killed": Trained(killed, ends["killed"])}


@pytest.fixture(scope="module")
def whole(runs_trained: dict[str, Trained]) -> Trained:
    return runs_trained["whole"]


def values(trained: Trained, kind: str, name: str) -> list[float]:
    return [record[name] for _, _, record in trained.told(kind)]


def test_the_margin_rises(whole: Trained) -> None:
    """With apo_zero the margin rises on pairs that are trained on and on others, until all are preferred rightly."""
    for kind in ("train", "eval"):
        margins = values(whole, kind, "reward_margin")
        assert margins[-1] > max(1.0, margins[0])
        assert values(whole, kind, "reward_accuracy")[-1] == 1.0
        assert values(whole, kind, "loss")[-1] < values(whole, kind, "loss")[0]


def test_rewards_are_those_of_the_paper(whole: Trained) -> None:
    """apo_zero makes chosen answers likelier and rejected ones less likely; the margin is their difference."""
    chosen, rejected = values(whole, "train", "chosen_reward"), values(whole, "train", "rejected_reward")
    assert chosen[-1] > 0 > rejected[-1]
    assert values(whole, "train", "reward_margin")[-1] == chosen[-1] - rejected[-1]


def test_it_begins_at_the_base_model(whole: Trained) -> None:
    """Before the first change nothing is likelier than under the base model: the margin is zero, to the last bit."""
    _, step, first = whole.told("train")[0]
    assert (step, first["reward_margin"], first["chosen_reward"], first["rejected_reward"]) == (1, 0.0, 0.0, 0.0)
    assert first["reward_accuracy"] == 0.5  # all of them are ties
    assert first["loss"] == 1.0


def test_a_killed_run_ends_the_same(runs_trained: dict[str, Trained], whole: Trained) -> None:
    """Killed at a checkpoint and gone on, a run has the bytes and the journal of one that was left alone."""
    broken = runs_trained["killed"]
    assert isinstance(broken.ends[0], ProcessDied)
    assert broken.ends[1] is None
    assert broken.told("train", "eval") == whole.told("train", "eval")
    models = [(run.folder / "model" / "model.safetensors").read_bytes() for run in (broken, whole)]
    assert models[0] == models[1]


def test_the_validation_is_of_all_pairs(whole: Trained, tiny: Path) -> None:
    """The last validation is the mean over the pairs held out for it, as computed from the two models afterwards."""
    rows = shards.read(Path(whole.plan.prepared.folder) / "validation.arrow").to_pylist()
    said = [
        reference.nats(scoring.documents(evaluation.load(folder, "float32", "cpu")[0], rows, 1000))
        for folder in (whole.folder / "model", tiny)
    ]
    ratios = said[0] - said[1]
    tokens = torch.tensor([scoring.trained_tokens(row) for row in rows])
    expected = losses.of_pairs("apo_zero", ratios, tokens, 0.1).mean().item()
    _, step, last = whole.told("eval")[-1]
    assert step == 45
    assert last["loss"] == pytest.approx(expected, rel=1e-4)
    assert last["reward_margin"] == pytest.approx(0.1 * (ratios[:, 0] - ratios[:, 1]).mean().item(), rel=1e-4)


class Told:
    """Whether to stop: from the given time of asking on."""

    def __init__(self, after: float = math.inf) -> None:
        self.left = after

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture
def trainer() -> Iterator[Build]:
    """Builds trainers in this process."""
    with contextlib.ExitStack() as opened:

        def build(plan: TrainingPlan) -> Any:
            lines = opened.enter_context(
                contextlib.closing(journal.Journal(Path(plan.folder) / "metrics.jsonl", plan.run_id))
            )
            return trainers.dpo(plan, lines, Told())

        yield build


@pytest.mark.parametrize("loss", ["apo_zero", "ipo"])
def test_a_process_without_pairs_adds_nothing(trainer: Build, make_plan: MakePlan, tmp_path: Path, loss: str) -> None:
    """Where fewer pairs than processes are left, a process without one takes part with a loss and gradient of zero."""
    work = trainer(make_plan(tmp_path / "runs", "a", capitals(3), **{**APO, "train__loss": loss}))
    work.train_dataset = work.train_dataset.add_column("reference", [[-3.0, -4.0]] * len(work.train_dataset))
    some, nothing = work._collated([work.train_dataset[0]]), work._collated([])
    assert work._get_num_items_in_batch([some, nothing], torch.device("cpu")) == 1
    found = work.compute_loss(work.model, nothing, num_items_in_batch=torch.tensor(1))
    found.backward()
    assert found.item() == 0.0
    assert not any(weight.grad.any() for weight in work.model.parameters())
    assert work.progress.mine["pairs"] == 0


def base_of(trainer: Any) -> reference.Base:
    return reference.Base(trainer.model, trainer.accelerator, trainer.data_collator)


@pytest.fixture
def plan(make_plan: MakePlan, tmp_path: Path) -> TrainingPlan:
    """Twelve pairs in one epoch of two steps, the last one smaller."""
    held = {"data__validation": "none", "data__test": "none", "train__eval_steps": "auto", "train__warmup_steps": 0}
    return make_plan(tmp_path / "runs", "a", capitals(3), **{**APO, **held, "train__max_steps": 2})


def test_a_step_is_the_mean_over_its_pairs(trainer: Build, plan: TrainingPlan) -> None:
    """However a step's pairs are taken in parts, its loss is their mean."""
    work = trainer(plan)
    work.known = reference.prepare(plan, base_of(work), work.train_dataset, None, work.journal, Told())
    rows = [{**row, "reference": one} for row, one in zip(work.train_dataset, work.known.train.tolist(), strict=True)]
    with torch.no_grad():
        for weight in work.model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    parts = [pairs.collate(rows[at:end]) for at, end in ((0, 4), (4, 5), (5, 12))]
    count = work._get_num_items_in_batch(parts, torch.device("cpu"))
    found = sum(work.compute_loss(work.model, part, num_items_in_batch=count).item() for part in parts)
    assert count == 12
    assert found == pytest.approx(work.compute_loss(work.model, pairs.collate(rows)).item(), rel=1e-5)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_it_begins_at_the_base_model_in_bfloat16_too(
    trainer: Build, make_plan: MakePlan, tmp_path: Path, adapter: str
) -> None:
    """The base model is asked in the precision of training: here too the first margin is zero to the last bit."""
    given = {"model__dtype": "bfloat16", "train__adapter": adapter, "train__max_steps": 1, "data__validation": "none"}
    plan = make_plan(tmp_path / "runs", "a", capitals(3), **{**APO, **given, "train__warmup_steps": 0})
    trainer(plan).train()
    (line,) = (record for record in journal.read(Path(plan.folder) / "metrics.jsonl") if record.kind == "train")
    assert (line.values["reward_margin"], line.values["chosen_reward"]) == (0.0, 0.0)


def test_an_adapter_learns_preferences(trainer: Build, make_plan: MakePlan, tmp_path: Path) -> None:
    """With LoRA the margin rises from zero, held to the same model without its adapter, which is never moved."""
    given = {**APO, **LORA, "train__learning_rate": 2e-2, "train__max_steps": 16}
    work = trainer(make_plan(tmp_path / "runs", "a", capitals(), **given))
    before = {name: weight.clone() for name, weight in work.model.named_parameters() if not weight.requires_grad}
    work.train()
    lines = journal.read(Path(work.plan.folder) / "metrics.jsonl")
    first, *_, last = (line.values for line in lines if line.kind == "train")
    assert (first["reward_margin"], first["loss"]) == (0.0, pytest.approx(math.log(2)))
    assert last["reward_margin"] > 0.1
    assert all(torch.equal(before[name], weight) for name, weight in work.model.named_parameters() if name in before)


def test_what_the_base_model_says_is_kept(trainer: Build, plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop in between, what was computed is there; the rest is computed then, and nothing a second time."""
    monkeypatch.setattr(reference, "PAIRS_A_PART", 4)
    asked: list[Any] = []
    answers = pairs.answers

    def counted(model: Any, inputs: Any) -> Any:
        asked.append(inputs)
        return answers(model, inputs)

    monkeypatch.setattr(pairs, "answers", counted)
    work, folder = trainer(plan), Path(plan.folder) / "reference"
    given = (plan, base_of(work), work.train_dataset, None, work.journal)
    assert reference.prepare(*given, Told(after=3)) is None
    (part,) = folder.rglob("*.npy")
    assert part.name == "train-000000.npy"
    asked.clear()
    first = reference.prepare(*given, Told())
    assert len(asked) == 2
    with torch.no_grad():
        for weight in work.model.parameters():
            weight.zero_()  # as after training: it must not be asked again
    again = reference.prepare(*given, Told())
    assert len(asked) == 2
    assert torch.equal(first.train, again.train)
    part.with_name("train-000001.npy").write_bytes(b"damaged")
    reference.prepare(*given, Told())
    assert len(asked) == 5


def test_pairs_that_are_never_trained_on_are_not_asked_for(trainer: Build, make_plan: MakePlan, tmp_path: Path) -> None:
    """In a short training the base model is asked for its pairs alone."""
    plan = make_plan(tmp_path / "runs", "a", capitals(12), **{**APO, "train__max_steps": 1, "train__warmup_steps": 0})
    work = trainer(plan)
    known = reference.prepare(plan, base_of(work), work.train_dataset, None, work.journal, Told()).train
    assert len(known) > 8
    assert known.isfinite().all(1).sum() == 8
