"""The training process: `python -m smollm3_ft.training <runs_dir>/<name>/plan.json`, alone or under accelerate launch.

Trains what the plan says, from the newest complete checkpoint if there is one, and leaves the final model as a whole.
Of several processes all train, and the first one writes.
It never talks to the network, and saves and ends when it is told to or when its parent is gone.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc
    import sys

    from smollm3_ft import unneeded

    gc.disable()  # what is imported now is no garbage; `processes.child` puts it on again
    unneeded.leave_out(sys.argv[1:])

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from smollm3_ft import (
    adapters,
    checkpoints,
    disk,
    files,
    fit,
    locks,
    memory,
    models,
    processes,
    ranks,
    records,
    runs,
    trainers,
)
from smollm3_ft import journal as journals
from smollm3_ft.errors import ConfigError, Problem, Stopped, TrainingError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal
from smollm3_ft.progress import PROGRESS, Progress
from smollm3_ft.sft import SftTrainer

OF_THIS_MACHINE = ("is_local", "local_files_only")  # how the tokenizer was loaded here, which transformers writes down


def main() -> None:
    """Train. Raises Stopped where it was asked to stop."""
    if len(sys.argv) != 2:
        raise ConfigError(Problem("usage", "python -m smollm3_ft.training <runs_dir>/<name>/plan.json"))
    plan = fit.read(Path(sys.argv[1]))
    folder = Path(plan.folder)
    fit.check_made_here(plan, runs.read(folder).accepted)
    ranks.check_count(plan.settings.processes)
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("the plan is for a GPU, and torch sees none", "check the driver: `nvidia-smi`")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with disk.named_when_full(folder), _alone(plan):
        _train_to_the_end(plan, folder, processes.StopRequest())


def _train_to_the_end(plan: TrainingPlan, folder: Path, stop: processes.StopRequest) -> None:
    journal = Journal(folder / "metrics.jsonl" if ranks.is_first() else Path(os.devnull), plan.run_id)
    trainer = trainers.TRAINERS[plan.config.train.method](plan, journal, stop)
    checkpoint = ranks.from_first(lambda: _newest(folder, journal))
    step = checkpoints.step(checkpoint) if checkpoint else 0
    if checkpoint:
        trainer.progress = Progress(files.read_json(checkpoint / PROGRESS))
        ranks.from_first(trainer.rotate)  # a kill may have come between its save and the rotation behind that
    journal.write("event", {"what": "resumed" if checkpoint else "started"}, step)
    _train(trainer, plan, checkpoint)
    stopped = ranks.any_of(bool(stop)) and not trainer.is_last(trainer.state.global_step)
    if not stopped:
        trainer.take_best()
        trainer.check_weights()
        with disk.named_when_full(folder, plan.predicted.model_bytes):
            model = _whole_model(trainer, plan)
            ranks.from_first(lambda: _finish(trainer, plan, model, step))
    journal.write("event", {"what": "interrupted" if stopped else "finished"}, trainer.state.global_step)
    if ranks.is_first():
        journal.sync()
    if stopped:
        raise Stopped("the training was told to stop, saved and ended", "run the same command to go on")


@contextlib.contextmanager
def _alone(plan: TrainingPlan) -> Iterator[None]:
    """Of several processes the first waits for those of an earlier start: a launcher hands on no lock to them."""
    if ranks.count() > 1 and ranks.is_first():
        with locks.hold(Path(plan.folder).parent, f".training-{plan.name}", wait=True):
            yield
    else:
        yield


def _newest(folder: Path, journal: Journal) -> Path | None:
    """The checkpoint to go on from; what a kill left half written is cleared."""
    checkpoints.clear_partial(folder / "checkpoints")
    for written in (adapters.FOLDER, "model", fit.TRAINED):
        files.clear_partial(folder / written)
    checkpoint, damaged = checkpoints.newest(folder / "checkpoints")
    for name in damaged:
        journal.write("alert", {"what": f"a damaged checkpoint was set aside as {name}", "level": "warning"})
    return checkpoint


def _train(trainer: SftTrainer, plan: TrainingPlan, checkpoint: Path | None) -> None:
    with memory.named_when_short(plan.settings.batch_size):
        if checkpoint and trainer.is_last(checkpoints.step(checkpoint)):
            trainer.take_over(checkpoint)  # the loop would make one step more
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _whole_model(trainer: SftTrainer, plan: TrainingPlan) -> Any:
    """The trained model; of a sharded one the shards gathered, in the first process alone."""
    if plan.settings.strategy != "fsdp2":
        return trainer.accelerator.unwrap_model(trainer.model)
    gathered = trainer.accelerator.get_state_dict(trainer.model)
    if not ranks.is_first():
        return None
    model = trainers.load_model(plan)
    if plan.config.train.adapter != "none":
        model = peft.get_peft_model(model, trainers.lora(plan))
    model.load_state_dict(gathered)
    return model


def _finish(trainer: SftTrainer, plan: TrainingPlan, model: Any, resumed_from: int) -> None:
    folder = Path(plan.folder)
    _save_model(model, plan, folder)
    records.write(folder / fit.TRAINED, fit.mark(plan), _result(plan, trainer, resumed_from), folder / "model")


def _save_model(model: Any, plan: TrainingPlan, folder: Path) -> None:
    """`model/`: adapters merged, weights in the computing type, tokenizer and template of the base; `adapter/`: the
    adapter alone, with the same beside it. Each of them all or nothing."""
    partial, apart = folder / ".partial-model", folder / ".partial-adapter"
    for one in (partial, apart):
        shutil.rmtree(one, ignore_errors=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan.weights, trust_remote_code=plan.model.code)
    for name in OF_THIS_MACHINE:
        tokenizer.init_kwargs.pop(name, None)
    if plan.config.train.adapter != "none":
        _save_adapter(model, plan, apart)
        tokenizer.save_pretrained(apart)
        if plan.config.train.adapter == "qlora":
            model = _on_whole_base(plan, apart)
        model = model.merge_and_unload()
        files.move_folder(apart, folder / adapters.FOLDER)
    model.config.use_cache = True
    model.to(getattr(torch, plan.config.model.dtype)).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    files.move_folder(partial, folder / "model")


def _save_adapter(model: Any, plan: TrainingPlan, folder: Path) -> None:
    """An adapter that names its base model as others know it, and not the folder where it lies here."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # peft's own, which has nothing in it
    model.generation_config.save_pretrained(folder)
    path = folder / adapters.CONFIG
    told = json.loads(path.read_text(encoding="utf-8"))
    told |= {"base_model_name_or_path": models.public_name(plan.model), "revision": plan.model.revision}
    files.write(path, json.dumps(told, indent=2) + "\n")


def _on_whole_base(plan: TrainingPlan, adapter: Path) -> Any:
    """A quantized base's adapter on the base as it was: merged into 4 bits, its small changes would be rounded away."""
    dtype = getattr(torch, plan.config.model.dtype)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        plan.weights, dtype=dtype, trust_remote_code=plan.model.code
    )
    return peft.PeftModel.from_pretrained(base, adapter)


def _result(plan: TrainingPlan, trainer: SftTrainer, resumed_from: int) -> dict[str, Any]:
    records = [r for r in journals.read(Path(plan.folder) / "metrics.jsonl") if r.kind == "train"]
    adapter = Path(plan.folder) / adapters.FOLDER
    shares = [float(r.values["mfu"]) for r in records if "mfu" in r.values]
    return {
        "steps": trainer.state.global_step,
        "best_step": trainer.progress.best.step,
        "epochs": trainer.state.epoch,
        "tokens": int(trainer.progress.total["tokens"]),
        "supervised_tokens": int(trainer.progress.total["supervised_tokens"]),
        "tokens_per_second": _middle([float(r.values["tokens_per_second"]) for r in records]),
        "mfu": _middle(shares),
        "peak_memory_bytes": max((int(r.values["memory_bytes"]) for r in records), default=None),
        "final_loss": records[-1].values["loss"] if records else None,
        "resumed_from": resumed_from or None,
        "model": files.digest_of((Path(plan.folder) / "model").glob("*.safetensors")),
        "adapter": files.digest_of(adapter.glob("*.safetensors")) if adapter.is_dir() else None,
    }


def _middle(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


if __name__ == "__main__":
    code = processes.child(main)
    sys.stdout.flush()
    os._exit(code)  # no library's exit handlers: what counts is on the disk
