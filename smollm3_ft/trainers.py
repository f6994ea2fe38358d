"""How a method trains: `TRAINERS[method](plan, journal, stop)` builds one. A new one is a function and an entry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import accelerate
import datasets
import peft
import torch
import transformers
import trl
from transformers.integrations.liger import apply_liger_kernel

from smollm3_ft import attention, batches, devices, firstcall, pairs
from smollm3_ft.dpo import DpoTrainer
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal
from smollm3_ft.processes import StopRequest
from smollm3_ft.sft import SftTrainer
from smollm3_ft.watching import Watch

Kind = TypeVar("Kind", bound=SftTrainer)


def sft(plan: TrainingPlan, journal: Journal, stop: StopRequest) -> SftTrainer:
    """Supervised fine-tuning: cross-entropy on the trained tokens of packed documents."""
    return _build(SftTrainer, plan, journal, Watch(stop), batches.collate)


def dpo(plan: TrainingPlan, journal: Journal, stop: StopRequest) -> DpoTrainer:
    """Preference pairs: a chosen answer made likelier than a rejected one, as compared with the base model."""
    return _build(DpoTrainer, plan, journal, Watch(stop), pairs.collate, stop=stop)


TRAINERS: dict[str, Callable[[TrainingPlan, Journal, StopRequest], SftTrainer]] = {"sft": sft, "dpo": dpo}


def _build(kind: type[Kind], plan: TrainingPlan, journal: Journal, watch: Watch, collate: Any, **options: Any) -> Kind:
    """A trainer of a method; what the methods share."""
    train, folder = plan.config.train, Path(plan.prepared.folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan.weights, trust_remote_code=plan.model.code)
    trainer = kind(
        plan=plan,
        journal=journal,
        folder=Path(plan.folder) / "checkpoints",
        model=load_model(plan),
        args=_arguments(plan),
        data_collator=functools.partial(collate, kernel=_has_kernel(plan)),
        train_dataset=datasets.Dataset.from_file(str(folder / "train.arrow")),
        eval_dataset=datasets.Dataset.from_file(str(folder / "validation.arrow")) if _validates(plan) else None,
        processing_class=tokenizer,
        peft_config=lora(plan) if train.adapter != "none" else None,
        callbacks=[watch],
        **options,
    )
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # TRL makes QLoRA's adapter bfloat16, in which AdamW loses updates
    watch.trainer = trainer
    return trainer


def load_model(plan: TrainingPlan) -> Any:
    """The model to train: float32 masters for full fine-tuning, the computing type for a frozen base, or 4 bits."""
    firstcall.settle()
    adapter, chosen = plan.config.train.adapter, plan.config.model.attention
    computed_in = getattr(torch, plan.config.model.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        plan.weights,
        dtype=torch.float32 if adapter == "none" else computed_in,
        attn_implementation=attention.NAME if chosen == "auto" else chosen,
        trust_remote_code=plan.model.code,
        **(_four_bits(computed_in) if adapter == "qlora" else {}),
    )
    model.config.use_cache = False
    if plan.device == "cuda" and devices.has_fused_kernels():
        apply_liger_kernel(model, {"fused_linear_cross_entropy": False})  # logits are made at trained tokens alone
    if adapter == "qlora":
        _keep_scales(model)
    return model


def _has_kernel(plan: TrainingPlan) -> bool:
    dtype = getattr(torch, plan.config.model.dtype)
    return plan.config.model.attention == "auto" and attention.has_kernel(torch.device(plan.device), dtype)


def _four_bits(computed_in: torch.dtype) -> dict[str, Any]:
    """QLoRA's base (Dettmers et al. 2023): NF4, its constants quantized too; on its device at once."""
    quantized = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed_in,
    )
    return {"quantization_config": quantized, "device_map": {"": accelerate.PartialState().device}}


def _keep_scales(model: Any) -> None:
    """On some CPUs bitsandbytes packs weights anew to evaluate, rounding their scales: a resumed run would differ."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _validates(plan: TrainingPlan) -> bool:
    return plan.prepared.rows["validation"] > 0


def lora(plan: TrainingPlan) -> peft.LoraConfig:
    """The adapter that the plan asks for."""
    given = plan.config.train.lora
    return peft.LoraConfig(
        r=given.r,
        lora_alpha=given.alpha,
        lora_dropout=given.dropout,
        target_modules=given.targets if isinstance(given.targets, str) else list(given.targets),
        task_type="CAUSAL_LM",
    )


def _arguments(plan: TrainingPlan) -> trl.SFTConfig:
    train, settings, cuda = plan.config.train, plan.settings, plan.device == "cuda"
    return trl.SFTConfig(
        output_dir=str(Path(plan.folder) / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=train.scheduler,
        warmup_steps=settings.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        bf16=plan.config.model.dtype == "bfloat16",
        use_cpu=not cuda,
        accelerator_config={"non_blocking": cuda},  # batches go to the device without its work being waited for
        activation_checkpointing=settings.gradient_checkpointing > 0,
        activation_checkpointing_kwargs={"every_n_layers": max(1, settings.gradient_checkpointing)},
        seed=plan.config.seed,
        data_seed=plan.config.seed,
        log_level_replica="error",
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        fsdp=settings.strategy == "fsdp2",
        fsdp_config={"version": 2, "state_dict_type": "SHARDED_STATE_DICT"},
        full_determinism=train.deterministic and cuda,
        logging_steps=train.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        eval_strategy="steps" if _validates(plan) else "no",
        eval_steps=settings.eval_steps,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        report_to="none",
        disable_tqdm=True,
    )
