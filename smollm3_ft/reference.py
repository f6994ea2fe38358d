"""What the base model says of the pairs: computed before the first step, and kept in the run's folder.

In full fine-tuning the base model's weights are gone after the first step. Training's pairs are taken in the
micro-batches of the first epoch and in training's precision, so that the first step has a margin of exactly zero. They
are written in parts, so that a killed run loses little, and a record closes them.
"""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device

from smollm3_ft import files, fit, order, pairs, processes, ranks, records, scoring
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal
from smollm3_ft.processes import StopRequest
from smollm3_ft.scoring import Score

PAIRS_A_PART = 256
LINES = 20  # of the journal, at most


class Base(NamedTuple):
    """A model that has the base model's weights, and how rows are brought to it, as in training."""

    model: Any
    accelerator: Any
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]


class Reference(NamedTuple):
    """Log-likelihoods in nats, (pairs, 2) in the order of the rows; NaN for pairs that are never trained on."""

    train: torch.Tensor
    validation: torch.Tensor


NONE = Reference(torch.empty(0, 2), torch.empty(0, 2))


def prepare(
    plan: TrainingPlan,
    base: Base,
    train: Any | None,
    validation: Any | None,
    journal: Journal,
    stop: StopRequest,
) -> Reference | None:
    """The base model's log-likelihoods of the given rows, from the run's folder where they are there.

    Several processes share the work. Returns None where they were told to stop; what is done then stays done.
    """
    mark = fit.mark(plan)
    folder = Path(plan.folder) / "reference" / mark[:16]  # its parts are of the plan's micro-batches
    ranks.from_first(lambda: _clear_damaged(folder, mark))
    rows: Any = [] if train is None else train
    parts = _parts(plan, len(rows))
    for number in range(ranks.index(), len(parts), ranks.count()):
        path = folder / f"train-{number:06}.npy"
        if not path.is_file():
            said = [_said(base, [rows[index] for index in batch]) for batch in parts[number] if not stop]
            if stop:
                break
            _save(path, torch.cat(said))
            if number * LINES // len(parts) != (number + 1) * LINES // len(parts):
                what = f"the base model was asked for {number + 1} of {len(parts)} parts of the pairs"
                journal.write("event", {"what": what}, 0)
    if ranks.any_of(bool(stop)):
        return None
    if validation is not None:
        ranks.from_first(lambda: _validate(plan, base, validation, folder / "validation.npy"))
    ranks.from_first(lambda: _close(folder, mark, sum(map(len, parts))))
    of_train = torch.full((len(rows), 2), torch.nan, dtype=torch.float64)
    for number, part in enumerate(parts):
        of_train[list(itertools.chain.from_iterable(part))] = _load(folder / f"train-{number:06}.npy")
    return Reference(of_train, NONE.validation if validation is None else _load(folder / "validation.npy"))


def _clear_damaged(folder: Path, mark: str) -> None:
    if (folder / records.RECORD).exists() and records.read(folder / records.RECORD, mark, folder) is None:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _close(folder: Path, mark: str, count: int) -> None:
    if not (folder / records.RECORD).is_file():
        records.write(folder / records.RECORD, mark, {"pairs": count}, folder)


def _validate(plan: TrainingPlan, base: Base, rows: Any, path: Path) -> None:
    if not path.is_file():
        tokens = plan.settings.batch_size * plan.config.data.max_length
        with base.accelerator.autocast():
            _save(path, nats(scoring.documents(base.model, rows.to_list(), tokens, processes.beat)))


def nats(scores: Sequence[Sequence[Score]]) -> torch.Tensor:
    """The log-likelihoods of scored pairs, (pairs, 2)."""
    return torch.tensor([[-document.loss for document in row] for row in scores], dtype=torch.float64)


def _parts(plan: TrainingPlan, count: int) -> list[list[list[int]]]:
    """The rows that will be trained on, in the micro-batches of the first epoch, some of them a part."""
    settings = plan.settings
    trained = order.epoch_order(plan.config.seed, 0, count)[: settings.steps * settings.effective_batch_size].tolist()
    at_once = [trained[at : at + settings.batch_size] for at in range(0, len(trained), settings.batch_size)]
    size = max(1, PAIRS_A_PART // settings.batch_size)
    return [at_once[at : at + size] for at in range(0, len(at_once), size)]


@torch.no_grad()
def _said(base: Base, rows: list[dict[str, Any]]) -> torch.Tensor:
    processes.beat()
    inputs = send_to_device(base.collate(rows), base.accelerator.device)
    with base.accelerator.autocast():
        return pairs.answers(base.model, inputs).nats.cpu()


def _save(path: Path, values: torch.Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy())
    files.write(path, buffer.getvalue())


def _load(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(path))
