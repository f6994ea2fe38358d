"""Libraries that transformers and PEFT import wherever they are installed, kept out of processes that use none.

They are about a quarter of the CPU time in which the training process starts.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

OF_OTHER_MODELS = ("scipy", "sklearn")  # losses of object detection, and drafting models of another tokenizer
OF_QUANTIZED = ("bitsandbytes", "torchao")


def leave_out(words: Sequence[str]) -> None:
    """To be called before torch is imported, with the words of the command line: a plan, and perhaps a model's folder.

    Libraries that ask whether one of these is installed are told that it is not.
    """
    names = OF_OTHER_MODELS if any(_quantized(Path(word)) for word in words) else (*OF_OTHER_MODELS, *OF_QUANTIZED)
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # how Python is told that there is no such module


def _quantized(place: Path) -> bool:
    """Whether a plan says QLoRA, or a model (a plan's, or the one in this folder) is quantized already."""
    with contextlib.suppress(OSError, ValueError, KeyError):  # whoever reads it next says what is wrong with it
        if place.is_dir():
            return "quantization_config" in (place / "config.json").read_text(encoding="utf-8")
        if place.suffix == ".json":
            from smollm3_ft import files

            plan = files.read_json(place)
            return plan["config"]["train"]["adapter"] == "qlora" or _quantized(Path(plan["weights"]))
    return False
