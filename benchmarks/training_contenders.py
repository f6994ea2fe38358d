"""One contender of the training benchmark, in a process of its own and on one core.

python training_contenders.py CONTENDER MODEL ROWS OUT RESULT

From its rows to its last step, one epoch. The time to the first step is counted from the start of the process.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import measure
import psutil
import training_ours

MAX_LENGTH = 1024
IGNORED = -100
SEQUENCES_A_STEP = 2  # packed ones hold about as many tokens as the eight rows of the others
LEARNING_RATE = 1e-3  # of this project, and so of TRL on its batches: the losses that are compared must move
PACKING: dict[str, Any] = {
    "assistant_only_loss": True,
    "packing": True,
    "per_device_train_batch_size": SEQUENCES_A_STEP,
    "model_init_kwargs": {"attn_implementation": "sdpa"},
}
OURS = {
    "model__dtype": "float32",
    "data__max_length": MAX_LENGTH,
    "data__over_length": "truncate",  # as the others do
    "train__batch_size": SEQUENCES_A_STEP,
    "train__effective_batch_size": SEQUENCES_A_STEP,
    "train__learning_rate": LEARNING_RATE,
    "train__logging_steps": 1,  # the most that the journal can be asked for
}
ALL: dict[str, Any] = {"data__loss_on": "all"}

Measured = dict[str, Any]


class Job(NamedTuple):
    """What a contender trains on, and where it may write."""

    model: Path
    rows: Path
    out: Path


def fixed_width(job: Job) -> Measured:
    """The older launcher: TRL's trainer on rows that are padded or cut to one width, gradient checkpointing."""
    from trl import SFTTrainer

    return _fixed_width(job, SFTTrainer, checkpointing=True)


def fixed_width_plain(job: Job) -> Measured:
    """The same rows with less around them: transformers' trainer, activations kept."""
    from transformers import Trainer

    return _fixed_width(job, Trainer, checkpointing=False)


def _fixed_width(job: Job, trainer: Any, checkpointing: bool) -> Measured:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model)
    if checkpointing:
        model.gradient_checkpointing_enable()

    def prepare(batch: dict[str, Any]) -> Any:
        texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in batch["messages"]]
        return tokenizer(texts, truncation=True, padding="max_length", max_length=MAX_LENGTH)

    rows = load_dataset("json", data_files=str(job.rows), cache_dir=str(job.out / "cache"), split="train")
    made = trainer(
        model=model,
        args=TrainingArguments(output_dir=str(job.out / "trainer"), **_alike()),
        train_dataset=rows.map(prepare, batched=True, remove_columns=rows.column_names),
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    return _trained(made)


def trl(job: Job, **settings: Any) -> Measured:
    """TRL's trainer with some settings, and its defaults for everything else."""
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    arguments = SFTConfig(output_dir=str(job.out / "trainer"), bf16=False, **_alike(), **settings)
    rows = load_dataset("json", data_files=str(job.rows), cache_dir=str(job.out / "cache"), split="train")
    trainer = SFTTrainer(model=str(job.model), args=arguments, train_dataset=rows, processing_class=tokenizer)
    return _trained(trainer)


def same_batches(job: Job) -> Measured:
    """TRL's packing on the batches of this project's run beside, in its order, with its optimizer's settings."""
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from smollm3_ft import fit, order

    plan = fit.read(job.out.with_name("ours") / "runs" / "ours" / "plan.json")
    made, tokenizer = plan.settings, AutoTokenizer.from_pretrained(job.model)
    arguments = SFTConfig(
        output_dir=str(job.out / "trainer"),
        bf16=False,
        max_steps=made.steps,
        per_device_train_batch_size=made.batch_size,
        gradient_accumulation_steps=made.gradient_accumulation_steps,
        learning_rate=made.learning_rate,
        lr_scheduler_type=plan.config.train.scheduler,
        warmup_steps=made.warmup_steps,
        weight_decay=plan.config.train.weight_decay,
        max_grad_norm=plan.config.train.max_grad_norm,
        optim="adamw_torch",
        gradient_checkpointing=made.gradient_checkpointing,
        seed=plan.config.seed,
        train_sampling_strategy="sequential",
        packing=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        **{key: value for key, value in _alike().items() if key != "num_train_epochs"},
    )
    shard = datasets.Dataset.from_file(str(Path(plan.prepared.folder) / "train.arrow"))
    indices = order.epoch_order(plan.config.seed, 0, len(shard)).tolist()
    rows = datasets.Dataset.from_list([_as_packed(shard[index]) for index in indices])
    trainer = SFTTrainer(model=str(job.model), args=arguments, train_dataset=rows, processing_class=tokenizer)
    return _trained(trainer)


def _as_packed(row: dict[str, Any]) -> dict[str, Any]:
    """A packed sequence of this project's as TRL's packing would hand it over."""
    pairs = zip(row["input_ids"], row["mask"], strict=True)
    labels = [token if trained else IGNORED for token, trained in pairs]
    return {"input_ids": row["input_ids"], "labels": labels, "seq_lengths": row["lengths"]}


def _alike() -> dict[str, Any]:
    return {"num_train_epochs": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}


def _trained(trainer: Any) -> Measured:
    import training_clock

    clock = training_clock.watch(trainer)
    trainer.train()
    found = clock.measured()
    return {**found, "to_first_step_s": found["first_step_at"] - psutil.Process().create_time()}


def ours(job: Job, *without: str, **given: Any) -> Measured:
    """This project, perhaps without one of its levers."""
    return training_ours.train(job.model, job.rows, job.out, {**OURS, **given}, without)


def small_pages(job: Job) -> Measured:
    os.environ["THP_MEM_ALLOC_ENABLE"] = "0"  # a value of one's own wins
    return ours(job, **ALL)


def without(lever: str, **given: Any) -> Callable[[Job], Measured]:
    return lambda job: ours(job, lever, **given)


CONTENDERS: dict[str, Callable[[Job], Measured]] = {
    "fixed_width": fixed_width,
    "fixed_width_plain": fixed_width_plain,
    "trl_defaults": trl,
    "trl_dynamic": partial(trl, assistant_only_loss=True),
    "trl_packing": partial(trl, **PACKING),
    "trl_packing_kept": partial(trl, **PACKING, gradient_checkpointing=False),
    "ours_all": partial(ours, **ALL),
    "ours": ours,
    "ours_bf16": partial(ours, model__dtype="bfloat16"),
    "same_batches": same_batches,
    "all_square": partial(ours, **ALL, model__attention="sdpa"),
    "all_entropy": without("entropy", **ALL),
    "all_gradient": without("gradient", **ALL),
    "all_small_pages": small_pages,
    "every_position": without("positions"),
}


def main(name: str, model: str, rows: str, out: str, result: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before torch is imported and counts the cores
    job = Job(Path(model), Path(rows), Path(out))
    job.out.mkdir()
    measure.done(Path(result), CONTENDERS[name](job))


if __name__ == "__main__":
    main(*sys.argv[1:])
