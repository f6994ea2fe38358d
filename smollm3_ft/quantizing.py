"""The quantizing process: `python -m smollm3_ft.quantizing <runs_dir>/<name>/plan.json int8|int4 <folder>`.

Writes a variant of the run's trained model into the folder, as a whole, by torchao: the weights of the linear layers in
fewer bits, and everything else as it is; the embeddings too, which are the head where the two are tied.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc

    gc.disable()  # what is imported now is no garbage; `processes.child` puts it on again

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torchao import quantization
from torchao.quantization.quantize_.workflows import Int4PackingFormat

from smollm3_ft import chat, disk, files, fit, processes
from smollm3_ft.errors import ConfigError, Problem, TrainingError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.variants import GROUP


def main() -> None:
    """Write one variant. Raises TrainingError where the device or the disk has no room for it."""
    if len(sys.argv) != 4:
        raise ConfigError(Problem("usage", "python -m smollm3_ft.quantizing PLAN.json int8|int4 FOLDER"))
    processes.end_with_parent()
    plan, kind, final = fit.read(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with disk.named_when_full(final.parent):
        try:
            write(plan, kind, final)
        except torch.OutOfMemoryError as error:
            raise TrainingError("the device ran out of memory while quantizing", "end what else uses it") from error


def write(plan: TrainingPlan, kind: str, final: Path) -> None:
    """The variant, its tokenizer and its chat template."""
    weights, dtype = Path(plan.folder) / "model", plan.config.model.dtype
    where = {"device_map": {"": plan.device}} if plan.device != "cpu" else {}
    how = transformers.TorchAoConfig(scheme(kind, plan.device, dtype))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        weights, dtype=getattr(torch, dtype), quantization_config=how, trust_remote_code=plan.model.code, **where
    )
    partial = final.with_name(f".partial-{final.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    for name in chat.FILES:
        if (weights / name).is_file():
            shutil.copy2(weights / name, partial)
    files.move_folder(partial, final)


def scheme(kind: str, device: str, dtype: str) -> Any:
    """How torchao is to quantize; only what safetensors can hold, so that nothing that is shared is a pickle.

    int8: a scale for each row. int4: a scale and a zero for each group, two weights in a byte as torch's own CUDA
    kernel reads them. That kernel takes bfloat16 alone, and nothing of torchao that safetensors can hold packs them for
    a CPU: there and then each weight of 4 bits takes a byte, which loads everywhere.
    """
    if kind == "int8":
        return quantization.Int8WeightOnlyConfig()
    if device == "cuda" and dtype == "bfloat16":
        packed = Int4PackingFormat.TILE_PACKED_TO_4D
        return quantization.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format=packed)
    four = torch.int4  # type: ignore[attr-defined]  # torch has it, its types do not
    group = quantization.PerGroup(GROUP)
    return quantization.IntxWeightOnlyConfig(four, group, mapping_type=quantization.MappingType.ASYMMETRIC)


if __name__ == "__main__":
    code = processes.child(main)
    sys.stdout.flush()
    os._exit(code)
