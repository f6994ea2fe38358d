"""The steps that need the device: fitted to it, the base model evaluated, trained, the tuned model evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from smollm3_ft import devices, fit, locks, processes, pruning, records, runs
from smollm3_ft.data import Prepared
from smollm3_ft.errors import Stopped
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal
from smollm3_ft.plan import Plan
from smollm3_ft.pulse import Pulse
from smollm3_ft.runs import Run
from tasks import evaluating
from tasks.evaluating import Evaluated
from tasks.following import Follower
from tasks.steps import DAYS, call, log, options, task


class Trained(BaseModel):
    """A finished training: the digest of the model's weights, and where it began again if it did."""

    model_config = ConfigDict(frozen=True)

    model: str
    steps: int
    resumed_from: int | None


@task(**options("fit to device", timeout=3600))
def fit_to_device(run: Run, plan: Plan, prepared: Prepared, kept: TrainingPlan | None) -> TrainingPlan:
    """Settle every `auto` for this machine, fetch the model, and write `plan.json`, once for a run."""
    if kept is not None:
        return kept
    return fit.made(run.run_id, run.path, run.config, plan.model, prepared, devices.detect(), log.info)


@task(**options("train", timeout=30 * DAYS, retries=3, delays=(1, 5, 30)))
def train(plan: TrainingPlan, host: Journal, held: Sequence[int], kept: Trained | None) -> Trained:
    """Train in a process of its own; a retry goes on from the newest complete checkpoint."""
    if kept is not None:
        return kept
    follower, pulse = Follower(plan), Pulse()

    def tick() -> None:
        follower.tick()
        pulse.check()
        pruning.check(Path(plan.folder))

    try:
        processes.run(
            "smollm3_ft.training",
            str(Path(plan.folder) / "plan.json"),
            on_line=log.info,
            on_tick=tick,
            on_beat=pulse.beat,
            inherit=held,
            count=plan.settings.processes,
        )
    except BaseException as error:
        interrupted = not isinstance(error, Exception) or isinstance(error, Stopped)
        why = f": {error.message}" if isinstance(error, Stopped) else ""
        what = f"training interrupted{why}" if interrupted else "training failed"
        host.write("alert", {"what": what, "level": "warning" if interrupted else "error"})
        raise
    follower.finish()
    done = _trained(plan)
    assert done is not None
    return done


@contextmanager
def the_device(run: Run) -> Iterator[int]:
    """What whoever trains a run holds, on whichever machine: two never do at once. Raises RunBusy.

    The training process of a dead flow run, here or elsewhere, has time to save and end.
    """
    with locks.hold(run.path.parent, f".{run.name}-on-device", far=locks.PATIENCE) as lock:
        yield lock


def fit_run(run: Run, plan: Plan, prepared: Prepared) -> TrainingPlan:
    path = run.path / "plan.json"
    kept = fit.read(path) if path.is_file() else None
    if kept is not None and kept.run_id != run.run_id:
        kept = None
    if kept is not None and _trained(kept) is None:
        fit.check_processes(kept, run.config)
        kept = fit.refitted(fit.fetched(kept), run.config, devices.detect())
    return call(fit_to_device, run, plan, prepared, fingerprint=run.run_id, kept=kept)


def train_on_device(run: Run, plan: TrainingPlan, host: Journal, held: Sequence[int]) -> tuple[Trained, Evaluated]:
    """Evaluate, train, evaluate: the part that needs the device. Returns what was trained and its evaluation.

    `held` are the locks that the training process holds too, so that it is seen when its parent is gone.
    """
    done = runs.status(run.path) in runs.FINISHED
    base = evaluating.of_base(run, plan, done)
    trained = call(train, plan, host, held, fingerprint=fit.mark(plan), kept=_trained(plan))
    tuned = evaluating.of_tuned(run, plan, trained.model, base, done)
    return trained, tuned


def finished(run: Run) -> tuple[TrainingPlan, Trained, Evaluated] | None:
    """What the part that needs the device left in the run's folder, where all of it is there and unaltered."""
    path, mark = run.path / "plan.json", runs.marks(run).get("evaluate tuned")
    if not path.is_file() or mark is None or not (run.path / "evaluation.json").is_file():
        return None
    plan = fit.read(path)
    trained = _trained(plan) if plan.run_id == run.run_id else None
    tuned = evaluating.found(run, mark, None, runs.status(run.path) in runs.FINISHED)
    return (plan, trained, tuned) if trained and tuned else None


def _trained(plan: TrainingPlan) -> Trained | None:
    folder = Path(plan.folder)
    values = records.read(folder / fit.TRAINED, fit.mark(plan), folder / "model")
    return Trained.model_validate({name: values[name] for name in Trained.model_fields}) if values else None
