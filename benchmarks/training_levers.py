"""What makes this project's training fast, each switched off alone, in the training process and before it begins."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch.nn import functional
from trl.trainer.utils import entropy_from_logits

from smollm3_ft import scoring

TRL_POSITIONS = 128  # that TRL takes the entropy of at once


def entropy() -> None:
    """Entropy and accuracy over all logits in every step, as TRL has them."""
    loss = scoring.cross_entropy

    def measured(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            torch.cat([entropy_from_logits(piece) for piece in torch.split(logits, TRL_POSITIONS)]).mean()
            (logits.argmax(-1) == targets).sum()
        return loss(logits, targets)

    scoring.cross_entropy = measured


def positions() -> None:
    """Logits at every position, the trained ones taken out of them."""
    model = transformers.SmolLM3ForCausalLM
    forward = model.forward

    def everywhere(self: Any, *given: Any, logits_to_keep: torch.Tensor, **named: Any) -> Any:
        output = forward(self, *given, **named)
        output.logits = output.logits[:, logits_to_keep]
        return output

    model.forward = everywhere


def gradient() -> None:
    """Torch's own cross-entropy, in one piece."""

    def plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), targets, reduction="sum")

    scoring.cross_entropy = plain


OFF: dict[str, Callable[[], None]] = {"entropy": entropy, "positions": positions, "gradient": gradient}
