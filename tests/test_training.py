"""A training that is killed, stopped or damaged ends as an undisturbed one does, bit for bit."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import MakePlan, facts
from safetensors.numpy import load_file
from several import Job, in_turn, killed_at, write_programs
from trained import ONE_STEP, SIGNALLED, STEPS, Trained, attempt, disturbed, with_smaller_batches

from smollm3_ft import checkpoints, evaluation, files, fit, journal, records, scoring, shards
from smollm3_ft.errors import ConfigError, ProcessDied, Stopped, TrainingError

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def runs_trained(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Runs trained in different circumstances, one as the flow does it, the others beside it in turn."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "signalled.py").write_text(SIGNALLED)
    write_programs(folder)
    lora = {"train__adapter": "lora", "train__lora": {"r": 4, "dropout": 0.1}}
    given = {
        "disturbed": {},
        "whole": {},
        "lora": lora,
        "lora killed": lora,
        "one step": ONE_STEP,
        "diverging": {"train__learning_rate": 1e9, "train__warmup_steps": 0, "train__logging_steps": 100},
        "other code": {},
        "smaller": {},
    }
    plans = {
        name: make_plan(folder / "runs", name.replace(" ", "-"), facts(60), **{**STEPS, **more})
        for name, more in given.items()
    }
    by_others = plans["other code"].model_copy(update={"code": "0" * 32})
    fit.write(Path(by_others.folder) / "plan.json", by_others)
    jobs = {name: [Job(plan, 1)] for name, plan in plans.items() if name != "disturbed"}
    jobs["lora killed"] = killed_at(plans["lora killed"], "checkpoint", 8, 20)
    jobs["smaller"] = killed_at(plans["smaller"], "checkpoint", 8)[:1]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")  # two at a time
        beside = thread.submit(disturbed, plans["disturbed"])
        ends = in_turn(folder, jobs)
        plans["smaller"] = with_smaller_batches(plans["smaller"])
        ends["smaller"].append(attempt(plans["smaller"]))
        ends["disturbed"] = beside.result().ends
    return {name: Trained(plan, ends[name]) for name, plan in plans.items()}


@pytest.fixture(scope="module")
def whole(runs_trained: dict[str, Trained]) -> Trained:
    return runs_trained["whole"]


@pytest.fixture(scope="module")
def broken(runs_trained: dict[str, Trained]) -> Trained:
    return runs_trained["disturbed"]


def test_it_learns(whole: Trained) -> None:
    """In twenty steps the loss of training and validation falls by half and more."""
    for kind in ("train", "eval"):
        losses = [values["loss"] for _, _, values in whole.told(kind)]
        assert losses[-1] < losses[0] / 2


def test_the_journal_has_every_interval(whole: Trained) -> None:
    """Training is written every logging_steps and at the end, validation every eval_steps."""
    assert [step for _, step, _ in whole.told("train")] == [3, 6, 9, 12, 15, 18, 20]
    assert [step for _, step, _ in whole.told("eval")] == [5, 10, 15, 20]
    assert [values["what"] for _, _, values in whole.told("event")] == ["started", *["checkpoint"] * 5, "finished"]


def test_the_record_of_a_training(whole: Trained) -> None:
    """A finished training has a record of its model, under the mark of its plan."""
    done = records.read(whole.folder / fit.TRAINED, fit.mark(whole.plan), whole.folder / "model")
    assert done is not None
    assert (done["steps"], done["resumed_from"]) == (20, None)
    assert done["final_loss"] == whole.told("train")[-1][2]["loss"]
    assert done["tokens"] > done["supervised_tokens"] > 0


def test_tokens_are_counted_without_padding(whole: Trained) -> None:
    """The tokens trained on are those of the prepared rows, as often as they were taken."""
    done = files.read_json(whole.folder / fit.TRAINED)["values"]
    expected = whole.plan.prepared.tokens * whole.plan.settings.epochs
    assert done["tokens"] == pytest.approx(expected, rel=0.05)


def test_the_loss_is_that_of_the_step(runs_trained: dict[str, Trained], tiny: Path) -> None:
    """The loss in the journal is nats a trained token of the whole step, however its rows were taken in parts."""
    step = runs_trained["one step"]
    model, _ = evaluation.load(tiny, "float32", "cpu")
    rows = shards.read(Path(step.plan.prepared.folder) / "train.arrow").to_pylist()
    scores = scoring.score(model, rows, 2000)
    ((_, _, values),) = step.told("train")
    nats, tokens, _ = scoring.summed(scores)
    assert values["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert values["token_accuracy"] == sum(one.correct for one in scores) / sum(one.tokens for one in scores)
    assert (values["tokens"], values["supervised_tokens"]) == (
        step.plan.prepared.tokens,
        step.plan.prepared.supervised_tokens,
    )


def test_without_validation_rows(runs_trained: dict[str, Trained]) -> None:
    """With nothing held out a training has no validation, and ends all the same."""
    assert runs_trained["one step"].ends == [None]
    assert runs_trained["one step"].told("eval") == []


def test_only_the_newest_checkpoints_stay(whole: Trained) -> None:
    """As many checkpoints are kept as was said, each complete, and nothing partial beside them."""
    kept = whole.folder / "checkpoints"
    assert [checkpoints.step(path) for path in checkpoints.complete(kept)] == [16, 20]
    assert all(checkpoints.is_undamaged(path) for path in checkpoints.complete(kept))
    assert [path.name for path in kept.iterdir() if path.name.startswith(".")] == []


def test_no_pickle_of_settings_is_kept(whole: Trained) -> None:
    """A checkpoint holds no training_args.bin, which could hold a token."""
    assert list((whole.folder / "checkpoints").rglob("training_args.bin")) == []


def test_the_model_loads(whole: Trained, tiny: Path) -> None:
    """The final model loads, talks with the template of its base, and differs from it in every matrix."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole.folder / "model")
    assert model.config.use_cache
    given, base = (AutoTokenizer.from_pretrained(place).chat_template for place in (whole.folder / "model", tiny))
    assert given == base
    trained, before = load_file(whole.folder / "model" / "model.safetensors"), load_file(tiny / "model.safetensors")
    assert all((trained[name] != weight).any() for name, weight in before.items())


def test_how_a_disturbed_run_went(broken: Trained) -> None:
    """Killed, it died; told to stop, it stopped; killed again, it died; and then it finished."""
    assert [type(end) for end in broken.ends] == [ProcessDied, Stopped, ProcessDied, type(None)]
    assert "SIGKILL" in str(broken.ends[0])


def test_it_goes_on_where_it_was(broken: Trained) -> None:
    """It resumes from the checkpoint that it was killed behind, the one before the damaged one, and its last."""
    events = [(values["what"], step) for _, step, values in broken.told("event") if values["what"] != "checkpoint"]
    assert events == [
        ("started", 0),
        ("resumed", 4),
        ("interrupted", 10),
        ("resumed", 8),
        ("resumed", 20),
        ("finished", 20),
    ]


def test_the_last_step_is_in_the_middle_of_an_epoch(broken: Trained) -> None:
    """These tests are of the harder case: going on from the last step, a training must not take one step more."""
    assert broken.plan.settings.epochs % 1 > 0
    assert files.read_json(broken.folder / fit.TRAINED)["values"]["steps"] == 20


def test_told_to_stop_it_saves_at_once(broken: Trained) -> None:
    """A training that is told to stop saves after the step that it is in."""
    saved = [step for _, step, values in broken.told("event") if values["what"] == "checkpoint"]
    assert saved[:3] == [4, 8, 10]


def test_a_damaged_checkpoint_is_named(broken: Trained) -> None:
    """A checkpoint that is not as it was written is set aside, kept, and named in the journal."""
    assert [values["what"] for _, _, values in broken.told("alert")] == [
        "a damaged checkpoint was set aside as .damaged-checkpoint-10"
    ]
    assert (broken.folder / "checkpoints" / ".damaged-checkpoint-10").is_dir()


def test_the_weights_are_the_same(whole: Trained, broken: Trained) -> None:
    """Killed, stopped, damaged, and killed after its last step, a training ends with the bytes of a quiet one."""
    assert broken.model == whole.model


def test_the_journal_is_the_same(whole: Trained, broken: Trained) -> None:
    """Its training and validation records are those of an undisturbed one: ids, steps, losses, counts."""
    assert broken.told("train", "eval") == whole.told("train", "eval")


def test_each_id_once(broken: Trained) -> None:
    """However often it began again, no id is in the journal twice."""
    ids = [line["id"] for line in broken.lines]
    assert len(set(ids)) == len(ids)


def test_an_adapter_is_merged(runs_trained: dict[str, Trained], tiny: Path) -> None:
    """With LoRA the model is a whole one: the linear layers changed, everything else as it was."""
    trained = load_file(runs_trained["lora"].folder / "model" / "model.safetensors")
    base = load_file(tiny / "model.safetensors")
    assert sorted(trained) == sorted(base)
    changed = {name for name, weight in base.items() if (trained[name] != weight).any()}
    assert changed == {name for name in base if "_proj" in name}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # peft asks for it by its former name
def test_an_adapter_is_kept_beside_the_model(runs_trained: dict[str, Trained], tiny: Path) -> None:
    """Merged into the base model again it is the model, bit for bit, and its digest is in the training's record."""
    folder = runs_trained["lora"].folder
    model, _ = evaluation.load(folder / "adapter", "float32", "cpu", base=tiny)
    whole = load_file(folder / "model" / "model.safetensors")
    assert all((weight.numpy() == whole[name]).all() for name, weight in model.named_parameters())
    digest = files.digest_of((folder / "adapter").glob("*.safetensors"))
    assert files.read_json(folder / fit.TRAINED)["values"]["adapter"] == digest


def test_an_adapter_learns(runs_trained: dict[str, Trained]) -> None:
    """With LoRA the validation loss falls."""
    losses = [values["loss"] for _, _, values in runs_trained["lora"].told("eval")]
    assert losses[-1] < losses[0]


def test_an_adapter_is_the_same_again(runs_trained: dict[str, Trained]) -> None:
    """The adapter's start and its dropout come from the seed: another run, killed on its way, has the same bytes."""
    assert isinstance(runs_trained["lora killed"].ends[0], ProcessDied)
    assert runs_trained["lora killed"].model == runs_trained["lora"].model


def test_a_checkpoint_of_an_adapter_is_small(runs_trained: dict[str, Trained], whole: Trained) -> None:
    """With LoRA only the adapter is saved on the way."""
    sizes = [
        sum(path.stat().st_size for path in (run.folder / "checkpoints" / "checkpoint-20").rglob("*"))
        for run in (runs_trained["lora"], whole)
    ]
    assert sizes[0] < sizes[1] / 5


def test_smaller_batches_make_the_same_steps(runs_trained: dict[str, Trained], whole: Trained) -> None:
    """Gone on with half the micro-batch, a run makes the same steps: losses differ by rounding alone."""
    smaller = runs_trained["smaller"]
    assert smaller.plan.settings.gradient_accumulation_steps == 2 * whole.plan.settings.gradient_accumulation_steps
    for mine, same in zip(smaller.told("train"), whole.told("train"), strict=True):
        assert mine[:2] == same[:2]
        assert mine[2]["tokens"] == same[2]["tokens"]
        assert mine[2]["loss"] == pytest.approx(same[2]["loss"], rel=1e-5)


def test_a_training_that_diverges_fails(runs_trained: dict[str, Trained]) -> None:
    """A loss that is no number ends the training with a failure, an alert and no model, though no line was due."""
    diverged = runs_trained["diverging"]
    (end,) = diverged.ends
    assert type(end) is TrainingError
    assert "diverged" in end.message
    assert "at step 2" in end.message  # before the second step was made
    assert "train.learning_rate" in end.remedy
    assert [values["level"] for _, _, values in diverged.told("alert")] == ["error"]
    assert not (diverged.folder / "model").exists()
    assert not (diverged.folder / fit.TRAINED).exists()


def test_a_diverged_checkpoint_is_not_kept(runs_trained: dict[str, Trained]) -> None:
    """Weights that are no numbers are never saved."""
    assert checkpoints.complete(runs_trained["diverging"].folder / "checkpoints") == []


def test_a_plan_of_other_code_is_not_trained(runs_trained: dict[str, Trained]) -> None:
    """The process refuses a plan that was made by other code, before it writes anything."""
    refused = runs_trained["other code"]
    (end,) = refused.ends
    assert isinstance(end, ConfigError)
    assert "code here is" in str(end)
    assert not (refused.folder / "metrics.jsonl").exists()


def test_ids_name_the_run(whole: Trained) -> None:
    """Every id begins with the run's, so that runs do not mix anywhere."""
    assert {record.id.partition(":")[0] for record in journal.read(whole.folder / "metrics.jsonl")} == {
        whole.plan.run_id
    }
