"""Supervised fine-tuning: TRL's trainer with our journal, our data order, complete checkpoints, and an exact loss.

What is overridden of TRL and transformers, and why, stands in docs/upstream.md.
"""

from __future__ import annotations

import itertools
import math
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
import transformers
import trl

from smollm3_ft import checkpoints, devices, disk, files, flops, order, processes, ranks, scoring
from smollm3_ft.errors import TrainingError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal, read
from smollm3_ft.progress import PROGRESS, Progress
from smollm3_ft.scoring import Score
from smollm3_ft.settling import Settings


class Shares(torch.utils.data.Sampler[list[int]]):
    """This process's share of every micro-batch of an epoch, as `order.py` says; `smollm3-ft rows` asks it afterwards.

    `done` tells the steps that are done, from which the epoch follows, of a resumed training too.
    """

    def __init__(self, seed: int, count: int, settings: Settings, done: Callable[[], int]) -> None:
        self.seed = seed
        self.count = count
        self.settings = settings
        self.done = done

    def __len__(self) -> int:
        return sum(1 for _ in self._micro_batches(0))

    def __iter__(self) -> Iterator[list[int]]:
        epoch = order.epoch_of_step(self.done() + 1, self.count, self.settings.effective_batch_size)
        for shares in self._micro_batches(epoch):
            yield shares[ranks.index()].tolist()

    def _micro_batches(self, epoch: int) -> Iterator[list[order.Sequences]]:
        taken, step = order.epoch_order(self.seed, epoch, self.count), self.settings.effective_batch_size
        for first in range(0, self.count, step):
            yield from order.micro_batches(taken[first : first + step], self.settings.batch_size, ranks.count())


class SftTrainer(trl.SFTTrainer):  # type: ignore[misc]  # the library has no types
    """TRL's trainer with our journal, complete checkpoints, and an exact validation loss."""

    is_fsdp_enabled: bool

    def __init__(self, *, plan: TrainingPlan, journal: Journal, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.plan = plan
        self.journal = journal
        self.folder = folder
        self.progress = Progress()
        self.seconds_a_save = 2 * plan.predicted.checkpoint_bytes / disk.USUAL_SPEED  # written, and read for its digest
        self.alerted = {record.step for record in read(Path(plan.folder) / "metrics.jsonl") if record.kind == "alert"}

    def create_accelerator_and_postprocess(self) -> None:
        """Of a sharded model gradients are added up in float32, as they are of a whole one; accelerate takes bfloat16.

        And accelerate leaves sharding out where there is no GPU, without a word; torch does it on the CPU too.
        """
        options, precision = self.args.fsdp_plugin_args, self.args.mixed_precision
        if options and precision == "bf16":
            dtypes = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "output_dtype": torch.bfloat16}
            options["mixed_precision_policy"] = dtypes
        super().create_accelerator_and_postprocess()
        if options and not self.is_fsdp_enabled:
            plugin = accelerate.FullyShardedDataParallelPlugin(**options)
            if precision != "no":
                plugin.set_mixed_precision(precision)
            self.accelerator.state.fsdp_plugin = plugin
            for state in (self.accelerator.state, accelerate.PartialState()):  # the one is updated from the other
                state.distributed_type = accelerate.DistributedType.FSDP
            self.is_fsdp_enabled = True

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        processes.beat()
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        self.progress.add(loss.detach() / ranks.count(), inputs, self._flops(inputs))
        return loss

    def _flops(self, inputs: dict[str, Any]) -> float:
        tokens, supervised = inputs["input_ids"].numel(), len(inputs["before"])
        return flops.of(self.plan.config, self.plan.model, tokens, supervised, inputs["squared"])

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002  # as transformers calls it
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Nats a trained token of the whole step. Logits are made before trained tokens, and nowhere else.

        Gradients are averaged over the processes, and this is a sum: so it is as many times too large.
        """
        logits, targets = scoring.predicted(model, inputs)
        if self.writes_line():
            self.progress.judge(logits, targets)
        loss = scoring.cross_entropy(logits, targets)
        return loss * ranks.count() / (len(targets) if num_items_in_batch is None else num_items_in_batch)

    def writes_line(self) -> bool:
        """Whether the step that is being made gets a line of the journal."""
        step = self.state.global_step + 1
        return bool(step % self.args.logging_steps == 0 or step >= self.state.max_steps)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Called between the gradients and the optimizer: what is no number must not become weights."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        step, loss = self.state.global_step + 1, self.progress.end_step()
        for name, value in (("loss", loss), ("grad_norm", float(norm))):
            self._demand_finite(name, value, step)
        said = self.progress.losses.add(loss, step, self.state.max_steps)
        if said and step not in self.alerted:
            self.journal.write("alert", {"what": said.format(run=self.plan.name), "level": "warning"}, step)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002  # as TRL calls it
        """Write the journal instead of transformers' own history, which grows with every save."""
        self._metrics["train"].clear()
        if "loss" not in logs:
            return
        left = self.state.max_steps - self.state.global_step
        peak = devices.peak_flops(self.plan.device_name)
        values = {
            **self.progress.line(left, peak and peak * ranks.count()),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs.get("grad_norm", math.nan)),
            "epoch": float(self.state.epoch or 0.0),
            "memory_bytes": self.peak_memory(),
        }
        self.journal.write("train", values, self.state.global_step)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Write what holds of the whole validation split, whatever the batches."""
        self.control.should_evaluate = False  # or the end of an epoch would validate the same step once more
        rows = self.eval_dataset.to_list()
        own = slice(ranks.index(), None, ranks.count())
        with self.accelerator.autocast():  # as in training: masters in float32 are slow to compute with
            values = self.validation(self._scores(rows[own], math.ceil(len(rows) / ranks.count())), own)
        self.journal.write("eval", values, self.state.global_step)
        self._demand_finite("validation loss", values["loss"], self.state.global_step)
        self._judge(values["loss"])
        return {"eval_loss": values["loss"]}

    def _scores(self, rows: list[dict[str, Any]], passes: int) -> list[list[Score]]:
        """The scores of this process's rows. Of a sharded model every process makes as many forward `passes`."""
        model = self.accelerator.unwrap_model(self.model)
        if self.is_fsdp_enabled:
            missing = [self.eval_dataset[0]] * (passes - len(rows))
            return scoring.documents_whole(model, rows + missing, processes.beat)[: len(rows)]
        base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        tokens = self.plan.settings.batch_size * self.plan.config.data.max_length
        return scoring.documents(base, rows, tokens, processes.beat)

    def validation(self, scores: list[list[Score]], own: slice) -> dict[str, float]:  # noqa: ARG002  # dpo wants it
        """Nats a trained token, and the share of them that the model would have said. `own` are this process's rows."""
        nats, trained, correct = ranks.summed(scoring.summed(itertools.chain.from_iterable(scores)))
        return {"loss": nats / max(1, trained), "token_accuracy": correct / max(1, trained)}

    def _judge(self, loss: float) -> None:
        """With a patience: save what is best, and stop where nothing better has come for long."""
        patience = self.plan.config.train.early_stopping_patience
        if patience is None:
            return
        self.progress.best = self.progress.best.after(self.state.global_step, loss)
        if self.progress.best.since == 0:
            self.control.should_save = True
        if self.progress.best.since >= patience:
            self.control.should_training_stop = True

    def peak_memory(self) -> int:
        """The most bytes that the device has held for this process, or the process where it is on the CPU."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_reserved()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def is_last(self, step: int) -> bool:
        """Whether no step follows: all are made, or validation has not become better for as long as was said."""
        patience = self.plan.config.train.early_stopping_patience
        return step >= self.plan.settings.steps or (patience is not None and self.progress.best.since >= patience)

    def take_over(self, checkpoint: Path) -> None:
        """Become what a checkpoint holds, without a step."""
        if self.is_fsdp_enabled:
            self._prepare_for_training(self.plan.settings.steps, None, str(checkpoint))  # sharded, then loaded
        else:
            self._load_from_checkpoint(str(checkpoint))
        self.state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def take_best(self) -> None:
        """With a patience: the weights of the best validation in place of the last."""
        step = self.progress.best.step
        if step in (None, self.state.global_step):
            return
        checkpoint = self.folder / f"checkpoint-{step}"
        if checkpoints.is_undamaged(checkpoint):
            self._load_from_checkpoint(str(checkpoint))
        else:
            what = f"{checkpoint.name}, the best, is damaged or gone: the model has the last step's weights"
            self.journal.write("alert", {"what": what, "level": "warning"}, self.state.global_step)

    def check_weights(self) -> None:
        """Raise TrainingError where a weight is no number any more: it must be neither saved nor published."""
        for name, weight in self.model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                self._demand_finite(name, math.nan, self.state.global_step)

    def _demand_finite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            self.journal.write("alert", {"what": f"{name} is {value}", "level": "error"}, step)
            remedy = "lower train.learning_rate and start over with --fresh"
            raise TrainingError(f"the training diverged: {name} is {value} at step {step}", remedy)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """This process's shares. accelerate would deal out an epoch's last sequences twice."""
        count, done = len(self.train_dataset), (lambda: self.state.global_step)
        shares = Shares(self.plan.config.seed, count, self.plan.settings, done)
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_sampler=shares,
            collate_fn=self._collated,
            pin_memory=self.plan.device == "cuda",
        )

    def _collated(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A share as tensors; an empty one as a sequence of which nothing is trained: all processes go the same way."""
        if not rows:
            some = self.train_dataset[0]
            rows = [{**some, "mask": [0] * len(some["mask"])}]
        inputs: dict[str, Any] = self.data_collator(rows)
        return inputs

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002  # transformers calls it so
        return str(self.folder / ".partial-save")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save into a partial folder, then make it a checkpoint as a whole. TRL's card is left out.

        Every process writes its part; the first one makes a checkpoint of them when all have.
        """
        self.check_weights()
        processes.beat()
        began = time.monotonic()
        staging = self.folder / ".partial-save"
        ranks.from_first(lambda: shutil.rmtree(staging, ignore_errors=True))
        try:
            with disk.named_when_full(self.folder, self.plan.predicted.checkpoint_bytes):
                transformers.Trainer._save_checkpoint(self, model, trial)
                ranks.wait_for_all()
                processes.beat()
                ranks.from_first(lambda: self._publish(staging / f"checkpoint-{self.state.global_step}"))
        finally:
            if ranks.is_first():
                shutil.rmtree(staging, ignore_errors=True)
        self.seconds_a_save = time.monotonic() - began
        self.journal.write("event", {"what": "checkpoint"}, self.state.global_step)

    def _publish(self, staged: Path) -> None:
        (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
        files.write_json(staged / PROGRESS, self.progress.saved())
        self.journal.sync()
        checkpoints.publish(staged, self.folder)
        self.rotate()

    def rotate(self) -> None:
        """Keep as many checkpoints as was said, and the best."""
        checkpoints.rotate(self.folder, self.plan.config.train.save_total_limit, self.progress.best.step)
