"""Quantized variants of a trained model: what they need, where they lie, and whether they are there as they were made.

A variant lies in a folder of its name inside the model's, complete, so that `from_pretrained(…, subfolder="int8")`
loads it. Its record lies in the run's folder, and holds its size in bytes and the digest of its weights.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from smollm3_ft import devices, files, fit, identity, processes, records
from smollm3_ft.config import Variant
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.models import ModelPlan

KINDS: tuple[Variant, ...] = get_args(Variant)
GROUP = 32  # weights of 4 bits that share a scale


def check(kinds: Sequence[Variant], model: ModelPlan) -> None:
    """Raise ConfigError where variants cannot be made here, or not of a model of this shape."""
    if kinds and importlib.util.find_spec("torchao") is None:
        what = "quantizing needs torchao, which is not installed"
        raise ConfigError(Problem("publish.quantize", what, "install it: make setup EXTRAS=quantize"))
    widths = (model.hidden, model.heads * model.head_size, model.intermediate)
    uneven = [width for width in widths if width % GROUP]
    if "int4" in kinds and uneven:
        what = f"int4 takes {GROUP} weights at a time, and a layer of {model.name} has {uneven[0]} inputs"
        raise ConfigError(Problem("publish.quantize", what, "use [int8]"))


def folder(plan: TrainingPlan, kind: Variant) -> Path:
    return Path(plan.folder) / "model" / kind


def there(plan: TrainingPlan, kind: Variant) -> dict[str, Any] | None:
    """`bytes` of a variant's weights and their digest `model`; None where it is not there as it was made, of the model
    as it is, by the code as it is."""
    return records.read(_record(plan, kind), _mark(plan, kind), folder(plan, kind))


def is_as_made(plan: TrainingPlan, kind: Variant) -> bool:
    """Whether a variant is there as it was made, by whatever code."""
    path = _record(plan, kind)
    return records.read(path, files.read_json_if_there(path).get("fingerprint", ""), folder(plan, kind)) is not None


def made(plan: TrainingPlan, kind: Variant, on_line: Callable[[str], None]) -> dict[str, Any]:
    """As `there`, and made where it is not. Raises ConfigError where it cannot be made on this machine."""
    found = there(plan, kind)
    if found is not None:
        return found
    make(plan, kind, folder(plan, kind), on_line)
    weights = sorted(folder(plan, kind).glob("*.safetensors"))
    values = {"bytes": sum(path.stat().st_size for path in weights), "model": files.digest_of(weights)}
    records.write(_record(plan, kind), _mark(plan, kind), values, folder(plan, kind))
    return values


def make(plan: TrainingPlan, kind: Variant, final: Path, on_line: Callable[[str], None]) -> None:
    """Quantize the run's model into the folder `final`, all of it or nothing, in a process of its own.

    Raises ConfigError where this machine has no device of the kind that the run was trained on: weights are packed for
    the device that multiplies them.
    """
    check((kind,), plan.model)
    if plan.device != devices.detect().kind:
        what = f"{plan.name} was trained on {plan.device_name}, and variants are packed for such a device"
        raise ConfigError(Problem("publish.quantize", what, "do this on a machine that has one, or leave it out"))
    files.clear_partial(final)
    processes.run("smollm3_ft.quantizing", str(Path(plan.folder) / "plan.json"), kind, str(final), on_line=on_line)


def remove_others(plan: TrainingPlan, kinds: Sequence[Variant]) -> None:
    """Leave no variant in the model's folder but those of `kinds`: all of the folder is published."""
    for kind in set(KINDS) - set(kinds):
        _record(plan, kind).unlink(missing_ok=True)
        shutil.rmtree(folder(plan, kind), ignore_errors=True)


def _record(plan: TrainingPlan, kind: Variant) -> Path:
    return Path(plan.folder) / f"quantized-{kind}.json"


def _mark(plan: TrainingPlan, kind: Variant) -> str:
    model = files.read_json(Path(plan.folder) / fit.TRAINED)["values"]["model"]
    return files.digest([model, kind, plan.config.model.dtype, plan.device, identity.code("quantizing")])
