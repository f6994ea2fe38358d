"""One contender of the GPU benchmark, in a process of its own, so that its memory is its own.

python gpu_contenders.py model FOLDER RESULT
python gpu_contenders.py CONTENDER STEPS MODEL ROWS OUT RESULT
"""

import importlib.metadata
import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import generated
import measure
import training_ours
import training_rows

from smollm3_ft.errors import ConfigError, OutOfMemory

MEASURED, OUT_OF_MEMORY = "measured", "out of memory"
SEQUENCES, ROWS = 4, 32  # a step: packed sequences, and rows by themselves
KERNELS = ("flash-attn", "liger-kernel")
LORA = {"r": 16, "alpha": 32}
Measured = dict[str, Any]


class Sizes(NamedTuple):
    """Of the model, and of what it is trained on. On a GPU the real ones."""

    model: dict[str, Any]
    packed: int
    unpacked: int
    rows: int
    median_words: int


class Job(NamedTuple):
    """What a contender trains on, how long, with which adapter, and where it may write."""

    mode: str
    steps: int
    model: Path
    rows: Path
    out: Path


def sizes() -> Sizes:
    """SmolLM3-3B's where there is a GPU, and else small ones. The tokenizer is small in both."""
    import torch
    from transformers import SmolLM3Config

    if not torch.cuda.is_available():
        tiny = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
        return Sizes(tiny, packed=256, unpacked=128, rows=64, median_words=20)
    real = SmolLM3Config()
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "initializer_range",
        "no_rope_layers",
        "layer_types",
        "rope_parameters",
    )
    return Sizes({name: getattr(real, name) for name in names}, 4096, 2048, rows=400, median_words=150)


def kernels() -> dict[str, str]:
    """The versions of the kernels that are installed; `none` for those that are not."""
    found = {}
    for name in KERNELS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def write_model(folder: Path) -> Measured:
    """Random weights in bfloat16, made where they are made fastest, with a tokenizer that learnt from the rows."""
    import torch
    import transformers

    pad = {"pad_token_id": training_rows.SIZES["pad_token_id"]}
    generated.write_model(folder, training_rows.VOCABULARY, {**sizes().model, **pad})
    training_rows.write_tokenizer_config(folder)
    transformers.logging.disable_progress_bar()
    torch.manual_seed(training_rows.SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = transformers.AutoConfig.from_pretrained(folder)
        transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return {}


def ours(job: Job, **given: Any) -> Measured:
    """This project: the plan as the pipeline makes it, tried on the device, and its trainer; nothing is saved.

    `predicted` is what the plan says, `estimated` what plain arithmetic said before anything was tried.
    """
    import gpu_clock

    from smollm3_ft import devices, predictions, settling, trainers
    from smollm3_ft.journal import Journal
    from smollm3_ft.processes import StopRequest

    told = {
        **training_ours.ONE_EPOCH,
        "name": job.out.name,
        "runs_dir": str(job.out.parent / "runs"),
        "model__name": str(job.model),
        "model__dtype": "bfloat16",
        "data__source": str(job.rows),
        "data__over_length": "truncate",  # as the others do
        "data__loss_on": "all",
        "train__adapter": "lora" if job.mode == "lora" else "none",
        "train__lora": LORA,
        "train__batch_size": "auto",
        "train__gradient_accumulation_steps": "auto",
        "train__gradient_checkpointing": "auto",
        "train__max_steps": job.steps,
        "train__logging_steps": 1,
        **given,
    }
    plan = training_ours.make_plan(training_ours.nested(told))
    trainer = trainers.TRAINERS["sft"](plan, Journal(Path(plan.folder) / "metrics.jsonl", plan.run_id), StopRequest())
    trainer.args.save_strategy = "no"
    prepared, predicted = plan.prepared, plan.predicted
    work = predictions.Work(prepared.sequences, prepared.tokens, prepared.longest, prepared.rows["train"])
    estimated = settling.predict(plan.config, plan.settings, work, plan.model, devices.detect())
    return {
        **gpu_clock.timed(trainer, job.mode, plan.model),
        "attention": trainer.model.config._attn_implementation,
        "batch": f"{plan.settings.batch_size} x {plan.settings.gradient_accumulation_steps}",
        "gradient_checkpointing": plan.settings.gradient_checkpointing,
        "max_length": plan.config.data.max_length,
        "predicted_gib": predicted.memory_bytes / 2**30,
        "predicted_step_s": predicted.seconds / plan.settings.steps,
        "estimated_gib": estimated.memory_bytes / 2**30,
        "estimated_step_s": estimated.seconds / plan.settings.steps,
    }


def trl(job: Job, batch: int, accumulation: int, best: bool = True, **settings: Any) -> Measured:
    """TRL with its defaults, or `best`: with the kernels that are installed, and given settings."""
    import datasets
    import gpu_clock
    import peft
    import torch
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from smollm3_ft import models, resolve

    cuda = torch.cuda.is_available()
    flash = best and cuda and importlib.util.find_spec("flash_attn") is not None
    liger = best and cuda and importlib.util.find_spec("liger_kernel") is not None
    attention = {"attn_implementation": "flash_attention_2" if flash else "sdpa"} if best else {}
    # an adapter's base is frozen in bfloat16, as here; without one TRL's own default, float32 under autocast, stays
    base = {"dtype": "bfloat16"} if job.mode == "lora" else {}
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    arguments = SFTConfig(
        output_dir=str(job.out / "trainer"),
        max_steps=job.steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        model_init_kwargs={**attention, **base},
        use_liger_kernel=liger,
        use_cpu=not cuda,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **settings,
    )
    rows = datasets.load_dataset("json", data_files=str(job.rows), cache_dir=str(job.out / "cache"), split="train")
    lora = peft.LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=str(job.model),
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora if job.mode == "lora" else None,
    )
    shape = models.pin(resolve.resolve({"model": {"name": str(job.model)}}, environment={}).config.model, job.out)
    return {
        **gpu_clock.timed(trainer, job.mode, shape),
        "attention": trainer.model.config._attn_implementation,
        "batch": f"{batch} x {accumulation}",
        "gradient_checkpointing": int(arguments.gradient_checkpointing),
        "max_length": arguments.max_length,
    }


def contender(name: str, job: Job) -> Measured:
    """Train as `name` says."""
    size = sizes()
    packed = partial(trl, job, packing=True, max_length=size.packed)
    at_once = 2 if job.mode == "lora" else 1  # as many sequences as can keep their activations on 80 GB
    chosen = {
        "ours_packed": partial(ours, job, data__max_length=size.packed, train__effective_batch_size=SEQUENCES),
        "ours_unpacked": partial(
            ours,
            job,
            data__packing=False,
            data__max_length=size.unpacked,
            train__effective_batch_size=ROWS,
        ),
        "trl_defaults": partial(trl, job, 8, 1, best=False),
        "trl_packed": partial(packed, SEQUENCES, 1),
        "trl_packed_kept": partial(packed, at_once, SEQUENCES // at_once, gradient_checkpointing=False),
        "trl_unpacked": partial(trl, job, 8, ROWS // 8, max_length=size.unpacked),
    }
    return chosen[name]()


def main(name: str, *words: str) -> None:
    import torch

    result = Path(words[-1])
    if name == "model":
        measure.done(result, write_model(Path(words[0])))
        return
    mode, _, kind = name.partition("_")
    job = Job(mode, int(words[0]), *map(Path, words[1:-1]))
    job.out.mkdir()
    try:
        found = {"outcome": MEASURED, **contender(kind, job)}
    except (torch.OutOfMemoryError, OutOfMemory):
        found = {"outcome": OUT_OF_MEMORY}
    except ConfigError as error:
        if "train.batch_size" not in str(error):
            raise
        found = {"outcome": OUT_OF_MEMORY}  # said by the plan, before it is tried or after
    measure.done(result, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
