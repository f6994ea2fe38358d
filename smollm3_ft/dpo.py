"""Training on preference pairs (DPO, Rafailov et al. 2023, and its other losses), held to the base model.

The reference is the base model: with an adapter the same model without it, in full fine-tuning what `reference.py`
wrote down before the first step. So there is never a second model.
"""

from __future__ import annotations

from typing import Any

import peft
import torch

from smollm3_ft import losses, pairs, ranks, reference, scoring
from smollm3_ft.processes import StopRequest
from smollm3_ft.scoring import Score
from smollm3_ft.sft import SftTrainer


class DpoTrainer(SftTrainer):
    """The loss of a step is the mean over its pairs; rewards are counted beside it."""

    train_dataset: Any

    def __init__(self, *, stop: StopRequest, **options: Any) -> None:
        super().__init__(**options)
        self.stop = stop
        self.has_adapter = isinstance(self.model, peft.PeftModel)
        self.known = reference.NONE
        train = self.plan.config.train
        assert train.loss is not None
        assert train.beta is not None
        self.loss, self.beta = train.loss, train.beta

    def train(self, *given: Any, **options: Any) -> Any:
        """What the base model says of the pairs comes first, while the weights still are its own."""
        needed = None if self.has_adapter else self.train_dataset
        model = self.model.get_base_model() if self.has_adapter else self.model
        base = reference.Base(model, self.accelerator, self.data_collator)
        known = reference.prepare(self.plan, base, needed, self.eval_dataset, self.journal, self.stop)
        if known is None:
            return None  # told to stop
        self.known = known
        self.progress.begin_to_time()  # what it took is no part of the speed of training
        if not self.has_adapter:
            self.train_dataset = self.train_dataset.add_column("reference", known.train.tolist())
        return super().train(*given, **options)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002  # as transformers calls it
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Nats a pair of the whole step, as many times too large as there are processes (see `SftTrainer`)."""
        if self.has_adapter:
            with torch.no_grad(), self.accelerator.unwrap_model(self.model).disable_adapter():
                base = pairs.answers(model, inputs).nats
        else:
            base = inputs["reference"]
        policy, trained = pairs.answers(model, inputs), inputs["trained"]
        if not any(trained):  # a process that had no pairs left
            return policy.nats.sum().float() * 0
        ratios = policy.nats - base
        self.progress.reward(self.beta * ratios.detach())
        if self.writes_line():
            for answer in pairs.chosen(trained):
                self.progress.judge(policy.logits[answer], policy.targets[answer])
        counts = torch.tensor(trained, device=ratios.device).view(-1, 2)
        of_pairs = losses.of_pairs(self.loss, ratios, counts, self.beta)
        return of_pairs.sum().float() * ranks.count() / (num_items_in_batch or len(of_pairs))

    def validation(self, scores: list[list[Score]], own: slice) -> dict[str, float]:
        """Nats a pair, and rewards. `own` are this process's rows."""
        ratios = reference.nats(scores) - self.known.validation[own]
        counts = torch.tensor([[document.tokens for document in row] for row in scores])
        margins = self.beta * (ratios[:, 0] - ratios[:, 1])
        of_pairs = losses.of_pairs(self.loss, ratios, counts, self.beta)
        chosen = scoring.summed(row[0] for row in scores)
        mine = [
            of_pairs.sum(),
            pairs.preferred(margins).sum(),
            margins.sum(),
            len(scores),
            chosen.correct,
            chosen.tokens,
        ]
        loss, preferred, margin, count, correct, trained = ranks.summed(mine)
        return {
            "loss": loss / max(1, count),
            "token_accuracy": correct / max(1, trained),
            "reward_accuracy": preferred / max(1, count),
            "reward_margin": margin / max(1, count),
        }

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """The pairs of a step, over all devices."""
        pairs_of = [sum(tokens > 0 for tokens in batch["trained"]) // 2 for batch in batch_samples]
        count = torch.tensor(sum(pairs_of), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count
