"""The model card: what was trained, on what, how well it does, and how to use it and make it again.

Every number in it is read from the run's files. What has no value is left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2

from smollm3_ft import cardhead, files, fit, harness, models, pages, reproduce
from smollm3_ft.config import Config, tracker_of
from smollm3_ft.errors import ConfigError, Problem, PublishError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.sources import SourcePlan

FILE, CURVE, TEMPLATE = "README.md", "training_curve.png", "card.md"
OWN = ".templates"  # below the folder of all runs: a card.md there takes the place of ours


def render(
    plan: TrainingPlan,
    evaluation: Mapping[str, Any],
    ledger: Mapping[str, Any],
    *,
    curve: bool,
    repo: str | None,
    despite_gate: str | None,
) -> str:
    """The card of a run, for its evaluation and its ledger as others may see them. Raises PublishError where the
    user's own template cannot be rendered."""
    head = cardhead.made(plan, evaluation, dict(_hub_sources(plan)))
    told = {**_told(plan, evaluation, ledger), "curve": CURVE if curve else None}
    told |= {"repo": repo, "despite_gate": " ".join(despite_gate.split()) if despite_gate else None}
    told |= {"reproduce": reproduce.block(plan, repo or FILE), "place": repo or "."}
    own = Path(plan.folder).parent / OWN
    try:
        text = pages.templates(escaped=False, before=own).get_template(TEMPLATE).render(told)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        if not (own / TEMPLATE).is_file():
            raise
        line = f":{error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise PublishError(f"{own / TEMPLATE}{line} cannot be rendered ({error})", "mend it, or move it away") from None
    return f"---\n{head}\n---\n\n{text.strip()}\n"


def check_own(runs_dir: Path) -> None:
    """Raise ConfigError where the user's own template cannot be read: before training, and not after it."""
    own = runs_dir / OWN / TEMPLATE
    try:
        pages.templates(escaped=False, before=own.parent).get_template(TEMPLATE)
    except (jinja2.TemplateSyntaxError, UnicodeDecodeError) as error:
        line = f":{error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise ConfigError(Problem(f"{own}{line}", f"is no template ({error})", "mend it, or move it away")) from None


def _told(plan: TrainingPlan, evaluation: Mapping[str, Any], ledger: Mapping[str, Any]) -> dict[str, Any]:
    """What the template is given, but for what depends on the place of publication."""
    config, trained = plan.config, files.read_json(Path(plan.folder) / fit.TRAINED)["values"]
    return {
        "name": plan.name,
        "base": _base(plan),
        "adapter": config.train.adapter if config.train.adapter != "none" else None,
        "kept": config.publish.adapter if config.train.adapter != "none" else "merge",
        "method": _method(config),
        "licence": cardhead.licence(plan),
        "rows": evaluation.get("rows"),
        "metrics": _with_verdicts(evaluation),
        "general_rows": evaluation.get("general_rows"),
        "forgotten": verdict(evaluation.get("difference", {}).get("general_loss")),
        "gate": evaluation.get("gate") or {"state": "none"},
        "answered": (evaluation.get("answers") or {}).get("tuned") or {},
        "warnings": evaluation.get("warnings", []),
        "by": evaluation.get("by", {}),
        "harness": harness.shown(evaluation.get("harness") or {}),
        "quantized": _quantized(evaluation),
        "samples": evaluation.get("samples", []),
        "sources": [
            {**entry, **_pin(pinned)}
            for entry, pinned in zip(ledger["sources"], reproduce.sources_of(plan), strict=True)
        ],
        "splits": ledger["splits"],
        "leaks": ledger.get("leaks") or {},
        "data": config.data,
        "settings": _settings(plan, trained),
        "versions": plan.versions,
        "links": dict(_links(config)),
        "interval": pages.interval,
        "fenced": _fenced,
        "cell": _cell,
        "dtype": config.model.dtype,
        "code": plan.model.code,
    }


def _base(plan: TrainingPlan) -> dict[str, str | None]:
    """The base model: what it is called, as a link where it is on the Hub, and which version of it."""
    model, name = plan.model, models.public_name(plan.model)
    shown = f"[{name}]({_hub()}/{name})" if model.kind == "hub" else f"`{name}`"
    return {"kind": model.kind, "name": name, "shown": shown, "revision": model.revision, "digest": model.digest}


def _method(config: Config) -> str:
    if config.train.method == "sft":
        return "supervised fine-tuning"
    return f"preference optimization (dpo, loss {config.train.loss}, beta {config.train.beta:g})"


def verdict(difference: Mapping[str, float] | None) -> str | None:
    """What an interval of a difference says, positive being better: nothing more than it does."""
    if difference is None:
        return None
    return "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "no sure difference"


def _with_verdicts(evaluation: Mapping[str, Any]) -> list[dict[str, str | None]]:
    found = zip(pages.metrics(evaluation), evaluation.get("difference", {}).values(), strict=True)
    return [{**row, "verdict": verdict(difference)} for row, difference in found]


def _quantized(evaluation: Mapping[str, Any]) -> list[dict[str, str | None]]:
    """A row for each variant: its size and, where rows were held out, its loss beside the model's own."""
    return [
        {
            "kind": kind,
            "size": files.gib(one["bytes"]),
            "loss": pages.interval(one["loss"]) if "loss" in one else "not measured",
            "difference": pages.interval(one["difference"]["loss"]) if "loss" in one else "not measured",
            "verdict": verdict(one["difference"]["loss"]) if "loss" in one else "",
        }
        for kind, one in (evaluation.get("quantized") or {}).items()
    ]


def _settings(plan: TrainingPlan, trained: Mapping[str, Any]) -> dict[str, Any]:
    """How it was trained, by names that people read; only what has a value."""
    train, settings = plan.config.train, plan.settings
    lora = train.lora if train.adapter != "none" else None
    targets = (lora.targets if isinstance(lora.targets, str) else ", ".join(lora.targets)) if lora else None
    rate, peak = trained.get("tokens_per_second"), trained.get("peak_memory_bytes")
    tokens, supervised = trained.get("tokens"), trained.get("supervised_tokens")
    best = trained.get("best_step")
    found = {
        "steps": f"{trained['steps']:,}" + (f", of which the best, {best:,}, was kept" if best else ""),
        "epochs": f"{trained['epochs']:.3g}" if trained.get("epochs") else None,
        "tokens (in the loss)": f"{tokens:,} ({supervised:,})" if tokens else None,
        "sequences a step": settings.effective_batch_size,
        "longest row": f"{plan.config.data.max_length:,} tokens",
        "packing": "several rows in one sequence, none sees another" if plan.config.data.packing else None,
        "loss on": {"assistant": "the assistant's turns", "last": "the last turn", "all": "all tokens"}[
            plan.config.data.loss_on
        ],
        "peak learning rate": f"{settings.learning_rate:g}, {train.scheduler}, {settings.warmup_steps:,} warm-up steps",
        "optimizer": f"AdamW, weight decay {train.weight_decay:g}, gradients clipped to {train.max_grad_norm:g}",
        "adapter": f"rank {lora.r}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, on {targets}" if lora else None,
        "computed in": plan.config.model.dtype,
        "seed": plan.config.seed,
        "final training loss": pages.figure(trained["final_loss"]) if trained.get("final_loss") is not None else None,
        "device": f"{settings.processes} × {plan.device_name}" if settings.processes > 1 else plan.device_name,
        "peak memory": files.gib(peak) if peak else None,
        "speed": f"{rate:,.0f} tokens/s" if rate else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _hub_sources(plan: TrainingPlan) -> Iterator[tuple[str, str | None]]:
    """Each dataset of the Hub that was trained on, and its commit."""
    return ((source.source, source.revision) for source in reproduce.sources_of(plan) if source.kind == "hub")


def _pin(source: SourcePlan) -> dict[str, str | None]:
    """Where a source is, and which version of it."""
    link = f"{_hub()}/datasets/{source.source}" if source.kind == "hub" else None
    return {"link": link, "version": source.revision or source.content, "config": source.config}


def _links(config: Config) -> Iterator[tuple[str, str]]:
    """Pages of the run that others can reach."""
    target, dataset = config.monitor.trackio, config.monitor.dataset
    kind = tracker_of(config)
    if kind == "space":
        yield "Training curves (Trackio)", f"{_hub()}/spaces/{target}"
    if kind == "server" and not _is_private(target):
        yield "Training curves (Trackio)", target
    if dataset is not None and "/" in dataset:
        yield "Experiment dataset", f"{_hub()}/datasets/{dataset}"


def _is_private(address: str) -> bool:
    """Whether an address is of this machine or of its own network."""
    host = urlsplit(address).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


def _hub() -> str:
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def _fenced(text: str) -> str:
    """Somebody's text as it stands: within a fence that is longer than any in it."""
    longest = max((len(part) for part in _ticks(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _ticks(text: str) -> list[str]:
    return "".join(letter if letter == "`" else " " for letter in text).split()


def _cell(text: Any) -> str:
    """A text in a table's cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
