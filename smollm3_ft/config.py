"""The configuration: frozen models of every key, with bounds and help.

A section holds only what was given: `model_fields_set` and every dump say which keys those are, a null counts as not
given, and the text `none` switches a nullable key off. So a configuration survives YAML, JSON, a form and Prefect's
parameters unchanged. `resolve.py` fills in the rest.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from smollm3_ft.form import as_form

Recipe = Literal["demo", "sft_full", "sft_lora", "sft_qlora", "sft_long_context", "dpo", "apo", "classic"]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=100)]
RepoId = Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+/)?[A-Za-z0-9_.-]+$", max_length=96)]
Auto = Literal["auto"]
Variant = Literal["int8", "int4"]
OF_PAIRS = ("reward_accuracy", "reward_margin")  # metrics of train.method=dpo
Loss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "apo_zero",
    "apo_down",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "discopop",
    "sigmoid_norm",
]
Share = Annotated[float, Field(gt=0, lt=1, title="share")]
Rows = Annotated[PositiveInt, Field(title="rows")]
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z_]", title="split")]
Metric = Literal[
    "loss", "perplexity", "token_accuracy", "exact_match", "general_loss", "reward_accuracy", "reward_margin"
]


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys forbidden, dumped without what was not given."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        json_schema_extra=as_form,
        field_title_generator=lambda key, _: key,  # as in files, on the command line, and in what is said to be wrong
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given_and_none_is_off(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: _meant(cls, key, value) for key, value in values.items() if value is not None}

    @model_serializer(mode="wrap")
    def _only_what_was_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            key: "none" if value is None else value
            for key, value in handler(self).items()
            if key in self.model_fields_set
        }


def _meant(section: type[Section], key: str, value: Any) -> Any:
    """`none` as the null of a nullable key, and YAML's bare on and off, which arrive as booleans, as text."""
    if key not in section.model_fields:
        return value
    options = union_members(section.model_fields[key].annotation)
    if value == "none" and type(None) in options:
        return None
    if isinstance(value, bool) and bool not in options:
        return "on" if value else "off"
    return value


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type: of `float | None` (float, NoneType), of `float` itself alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


class Model(Section):
    name: str = Field("HuggingFaceTB/SmolLM3-3B", description="Hub id, local folder, or builtin:tiny")
    revision: str | None = Field(None, description="Branch, tag or commit; pinned to a commit and recorded")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Computed in; masters stay float32")
    attention: Literal["auto", "sdpa", "eager"] = Field("auto", description="How attention is computed")
    trust_remote_code: bool = Field(
        False, description="Run code from the model's repository, where SMOLLM3_FT_ALLOW_REMOTE_CODE=1"
    )


class Source(Section):
    source: str = Field(description="Hub id, file, folder, glob, or builtin:demo")
    config: str | None = Field(None, description="A Hub dataset's configuration")
    split: str | None = Field(None, description="The split to train on")
    format: str = Field("auto", description="The rows' format; found from the rows when auto")
    columns: dict[str, str] | None = Field(None, description="{their column: ours}")
    weight: PositiveFloat | None = Field(None, description="Share in a mixture")


class Data(Section):
    source: str | tuple[Source, ...] = Field("HuggingFaceTB/smoltalk2", description="One source, or a list of them")
    config: str | None = Field(None, description="A Hub dataset's configuration, when there is one source")
    split: str | None = Field(None, description="The split to train on, when there is one source")
    format: str = Field("auto", description="The rows' format; found from the rows when auto")
    columns: dict[str, str] | None = Field(None, description="{their column: ours}")
    max_length: Annotated[int, Field(ge=16)] = Field(4096, description="Longest row, in tokens")
    over_length: Literal["drop", "truncate", "split", "error"] = Field("drop", description="Longer rows; counted")
    packing: bool = Field(True, description="Several rows in one sequence, none sees another")
    loss_on: Literal["assistant", "last", "all"] = Field("assistant", description="The tokens trained on")
    validation: Share | Rows | SplitName | None = Field(0.02, description="Share, rows, or a split's name")
    test: Share | Rows | SplitName | None = Field(0.02, description="Share, rows, or a split's name")
    sample: PositiveInt | None = Field(None, description="Rows to take, seeded")
    dedup: Literal["exact", "none"] = Field("exact", description="Drop rows that repeat another")
    exclude_leaks: bool = Field(False, description="Drop training rows that are near a held-out row")
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = Field(0.05, description="Share of bad rows that stops the run")
    system_prompt: str | None = Field(None, description="Given to conversations that have none")
    thinking: Literal["auto", "on", "off"] = Field("auto", description="SmolLM3's thinking mode for the rows")


class Lora(Section):
    r: PositiveInt = Field(16, description="Rank")
    alpha: PositiveFloat = Field(32, description="Scale; the update is scaled by alpha / r")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout on the adapter's input")
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Modules that get an adapter: all-linear, or their names"
    )


class Train(Section):
    method: Literal["sft", "dpo"] = Field("sft", description="Supervised fine-tuning, or preference pairs")
    loss: Loss | None = Field(None, description="The loss of dpo; sigmoid where none is given")
    beta: PositiveFloat | None = Field(None, description="Dpo's tie to the base model; 0.1 where none is given")
    adapter: Literal["none", "lora", "qlora", "auto"] = Field("none", description="Full fine-tuning, or an adapter")
    lora: Lora = Field(default_factory=Lora, description="The adapter, where there is one")
    effective_batch_size: PositiveInt | Auto = Field("auto", description="Sequences a step, over all devices")
    batch_size: PositiveInt | Auto = Field("auto", description="Sequences at a time on a device")
    gradient_accumulation_steps: PositiveInt | Auto = Field("auto", description="Follows from the other two")
    learning_rate: PositiveFloat | Auto = Field("auto", description="Peak; auto follows method and adapter")
    epochs: PositiveFloat = Field(1, description="Passes over the training rows")
    max_steps: PositiveInt | None = Field(None, description="Stop after this many steps, whatever epochs says")
    warmup_steps: NonNegativeInt | Auto = Field("auto", description="Steps to the peak; auto is 3 % of all")
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="The learning rate after its peak"
    )
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW's decoupled weight decay")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradients are clipped to this norm")
    gradient_checkpointing: bool | Auto = Field("auto", description="Recompute activations to save memory")
    save_steps: PositiveInt | Auto = Field("auto", description="Steps between checkpoints")
    eval_steps: PositiveInt | Auto = Field("auto", description="Steps between validations")
    logging_steps: PositiveInt = Field(10, description="Steps between lines of the journal")
    save_total_limit: PositiveInt = Field(2, description="Checkpoints kept")
    early_stopping_patience: PositiveInt | None = Field(None, description="Validations without a better one")
    deterministic: bool = Field(False, description="CUDA: deterministic kernels, slower")


class Gate(Section):
    metric: Metric = Field("loss", description="What is compared, of the held-out rows")
    min_improvement: float = Field(0.0, description="Absolute; positive is better")
    not_worse_than: RunName | None = Field(None, description="A run to be no worse than, or last_published")


class Evaluate(Section):
    samples: NonNegativeInt = Field(8, description="Generations shown side by side")
    prompts: str | tuple[str, ...] | None = Field(None, description="A file or a list of own prompts")
    general: str | None = Field("builtin:general", description="Rows that show what was forgotten")
    gate: Gate | None = Field(None, description="What must hold before a model is published")
    harness: tuple[str, ...] | None = Field(None, description="Tasks of lm-eval: names or files")


class Monitor(Section):
    trackio: str = Field(
        "local",
        description="off, local, a server's URL, or owner/space",
        json_schema_extra={"pattern": "^[^@?]*$"},  # no password: a server keeps every parameter that it takes
    )
    dataset: RepoId | None = Field(None, description="The experiment dataset, owner/trackio-experiments")
    private: bool = Field(True, description="Space and dataset")
    system_interval: PositiveFloat = Field(10, description="Seconds between samples of the machine")


class Publish(Section):
    target: Literal["none", "local", "hub"] = Field("local", description="Where the model goes")
    repo: RepoId | None = Field(None, description="The Hub repository, owner/name")
    private: bool = Field(True, description="Visibility of the repository")
    adapter: Literal["merge", "keep", "both"] = Field("merge", description="What becomes of an adapter")
    quantize: tuple[Variant, ...] | None = Field(None, description="Quantized variants")
    demo_space: RepoId | None = Field(None, description="A Space to chat with the model")
    samples: bool = Field(False, description="Row texts may appear in card, Space and dataset")


class Compute(Section):
    pool: str = Field("auto", description="auto, none (train here), or a work pool's name")
    num_processes: PositiveInt = Field(1, description="Devices to train on")
    strategy: Literal["auto", "ddp", "fsdp2"] = Field("auto", description="How several devices share the work")


class Config(Section):
    """Everything a run is told. What is left empty is the recipe's to say; where none is named, it is demo."""

    recipe: Recipe = Field("demo", description="Where every value comes from that is left empty")
    name: RunName | None = Field(None, description="The run's folder; letters, digits, '.', '_' and '-'")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        42, description="Of data order, splits, initial adapters and sampling"
    )
    runs_dir: str = Field(
        "runs", description="The folder of all runs; machines share it by a mount, and it is absolute"
    )
    model: Model = Field(default_factory=Model, description="What is fine-tuned")
    data: Data = Field(default_factory=Data, description="What it is trained on, and what is held out")
    train: Train = Field(default_factory=Train, description="How it is trained")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="How base and tuned model are compared")
    monitor: Monitor = Field(default_factory=Monitor, description="Where metrics go")
    publish: Publish = Field(default_factory=Publish, description="Where the model goes")
    compute: Compute = Field(default_factory=Compute, description="Who trains it")


def pool_of(config: Config, environment: Mapping[str, str] = os.environ) -> str | None:
    """The work pool whose workers train; None where this process does."""
    pool = environment.get("SMOLLM3_FT_POOL", "none") if config.compute.pool == "auto" else config.compute.pool
    return None if pool == "none" else pool


def tracker_of(config: Config) -> Literal["off", "local", "server", "space"] | None:
    """What `monitor.trackio` names: a server by its URL, a Space by `owner/space`. None where it is none of these."""
    target = config.monitor.trackio
    if target in ("off", "local"):
        return "off" if target == "off" else "local"
    if re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", target):
        return "server"
    return "space" if re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", target) else None
