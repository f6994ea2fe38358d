"""The trials of a sweep: which values each is told, whether it is hopeless, how it ended.

Optuna proposes values (the tree-structured Parzen estimator, Bergstra et al. 2011), judges a trial by the median of
those before it (the median stopping rule, Golovin et al. 2017), and keeps what it knows in a database in the sweep's
folder. Each trial is a run, `<name>-<number>`. A trial that a kill left unfinished is asked again.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from smollm3_ft import files, fit, journal, pruning, runs, searchspace
from smollm3_ft.config import Config
from smollm3_ft.errors import TrainingError
from smollm3_ft.searchspace import Sweep
from smollm3_ft.sweeping import Search

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"
CAUSE = "cause"
FAILURES = 3  # in a row: what fails then is not the trials' own
SECONDS_BETWEEN = 0.3


class Trial(NamedTuple):
    """A trial to be trained: its run's name, and what Optuna proposes for it."""

    name: str
    number: int
    values: dict[str, Any]


class Told(NamedTuple):
    """What became of a trial: `state` is completed, pruned, failed or unfinished; `value` is the metric's."""

    name: str
    values: dict[str, Any]
    state: str
    value: float | None
    cause: str


def check_unfinished(search: Search, accept_changes: bool) -> None:
    """Raise ConfigError where code, packages or sources changed since an unfinished trial began, unless accepted."""
    for told in listed(search):
        folder = search.runs_dir / told.name
        if told.state == "unfinished" and (folder / runs.RECORD).is_file():
            if accept_changes:
                runs.accept_changes(folder)
            runs.check_unchanged(runs.read(folder), "go on with --accept-changes, or begin another sweep")


def next_trial(search: Search, at_work: Collection[int] = (), ended: Sequence[Told] = ()) -> Trial | None:
    """The unfinished trial to go on with, or a new one; None where all have been, or are at work, by their numbers.

    Raises TrainingError where of those that ended since the sweep was begun or gone on with, the last failed in a row.
    """
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    study = _study(search)
    known = study.get_trials(deepcopy=False)
    unfinished = next((one for one in known if one.state == TrialState.RUNNING and one.number not in at_work), None)
    if unfinished is None and len(known) >= search.sweep.trials:
        return None
    last = ended[-FAILURES:]
    if unfinished is None and len(last) == FAILURES and all(one.state == "failed" for one in last):
        what = f"{FAILURES} trials in a row failed, the last: {last[-1].cause}"
        raise TrainingError(what, "see their reports; the same command goes on with the next trial")
    # Seeded anew for each: one that goes on proposes what it would have without an interruption.
    study.sampler = TPESampler(seed=int(files.digest([search.config.seed, len(known)]), 16) % 2**32)
    asked = study.ask() if unfinished is None else _handle(study, unfinished.number)
    return Trial(search.run_name(asked.number), asked.number, _proposed(asked, search.sweep))


def configuration(search: Search, trial: Trial) -> Config:
    """What a trial's run is told; it is not published. Raises ConfigError where its values do not go together."""
    return searchspace.with_values(search.config, {**trial.values, "name": trial.name, "publish.target": "none"})


def follow(search: Search, trial: Trial, stop: threading.Event) -> None:
    """Judge a training by its journal until told to stop, or until it is hopeless."""
    folder, read = search.runs_dir / trial.name, 0
    while not stop.wait(SECONDS_BETWEEN) and pruning.reason(folder) is None:
        read = judge(search, trial, read)


def judge(search: Search, trial: Trial, read: int) -> int:
    """Read a training's journal on; prune it once it is hopeless. Returns how far it has been read, in bytes."""
    new, read = journal.read_new(search.runs_dir / trial.name / "metrics.jsonl", read)
    if any(record.kind == "eval" for record in new):
        judged_hopeless(search, trial)
    return read


def judged_hopeless(search: Search, trial: Trial) -> bool:
    """Whether a trial is worse than the median of those before it, by its journal so far: then it is pruned."""
    folder = search.runs_dir / trial.name
    if pruning.reason(folder) is not None:
        return True
    if runs.status(folder) in runs.FINISHED:  # a kill came before it was told
        return False
    steps, measured = _reported(search, trial)
    last = max(measured, default=steps)
    if last >= steps or not _handle(_study(search), trial.number).should_prune():
        return False
    what = f"{search.sweep.metric} {measured[last]:.4f} at step {last} of {steps}; its best so far is worse than"
    pruning.prune(folder, f"{what} the median of the trials before it")
    return True


def _reported(search: Search, trial: Trial) -> tuple[int, dict[int, float]]:
    """Tell Optuna of every validation so far. Returns the training's steps, and the metric by step.

    Validations are compared at equal shares of a training, in percent: its steps may be more, or fewer, than others'.
    """
    folder = search.runs_dir / trial.name
    measured = _validations(folder, search.sweep.metric)
    if not measured:
        return 0, measured
    steps, study = fit.read(folder / "plan.json").settings.steps, _study(search)
    known = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    for step, value in measured.items():
        share = round(100 * step / steps)
        if share not in known:
            known.add(share)
            _handle(study, trial.number).report(value, share)
    return steps, measured


def completed(search: Search, trial: Trial) -> Told:
    """Tell Optuna what a finished training came to, and say it."""
    value = _score(search.runs_dir / trial.name, search.sweep.metric)
    if value is None:
        return failed(search, trial, "no validation was made: train.eval_steps is larger than the steps")
    _reported(search, trial)
    _study(search).tell(trial.number, value)
    return listed(search)[trial.number]


def pruned(search: Search, trial: Trial, why: str) -> Told:
    """Tell Optuna that a trial was given up."""
    from optuna.trial import TrialState

    return _told(search, trial, TrialState.PRUNED, why)


def failed(search: Search, trial: Trial, cause: str) -> Told:
    """Tell Optuna that a trial's values cannot be trained with."""
    from optuna.trial import TrialState

    return _told(search, trial, TrialState.FAIL, cause)


def listed(search: Search) -> list[Told]:
    """Every trial so far, in the order of their beginning."""
    if not (search.path / STUDY).is_file():
        return []
    states = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
    return [
        Told(
            search.run_name(one.number),
            {key: one.params[key] for key in search.sweep.space if key in one.params},
            states.get(one.state.name, "unfinished"),
            one.value,
            str(one.user_attrs.get(CAUSE, "")),
        )
        for one in _study(search).get_trials(deepcopy=False)
    ]


def best(told: list[Told], sweep: Sweep) -> Told | None:
    """Of the completed trials the one with the best metric, the earlier one of equals."""
    done = [one for one in told if one.state == "completed" and one.value is not None]
    sign = 1 if sweep.direction == "minimize" else -1
    return min(done, key=lambda one: sign * (one.value or 0.0), default=None)


def _proposed(asked: optuna.trial.Trial, sweep: Sweep) -> dict[str, Any]:
    """A value for each key; those that were proposed before a kill stay."""
    found: dict[str, Any] = {}
    for key, values in sweep.space.items():
        if values.choices is not None:
            found[key] = asked.suggest_categorical(key, list(values.choices))
            continue
        assert values.low is not None
        assert values.high is not None
        if searchspace.is_whole(key):
            found[key] = asked.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            found[key] = asked.suggest_float(key, values.low, values.high, log=values.log)
    return found


def _study(search: Search) -> optuna.Study:
    # The median of fewer trials than a quarter of all, or five, says little.
    startup = max(1, min(5, search.sweep.trials // 4)) if search.sweep.pruner == "median" else None
    return _opened(search.path / STUDY, search.name, search.sweep.direction, startup)


@functools.lru_cache(maxsize=4)
def _opened(path: Path, name: str, direction: Literal["minimize", "maximize"], startup: int | None) -> optuna.Study:
    """Optuna's study, made as a whole where it is not there yet."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not path.is_file():
        partial = path.with_name(f".partial-{path.name}")
        partial.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{partial}")
        optuna.create_study(storage=storage, study_name=name, direction=direction)
        storage.remove_session()
        storage.engine.dispose()
        partial.replace(path)
    pruner = optuna.pruners.NopPruner() if startup is None else optuna.pruners.MedianPruner(n_startup_trials=startup)
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}", pruner=pruner)


def _handle(study: optuna.Study, number: int) -> optuna.trial.Trial:
    """What proposes and reports for a trial that was asked before; Optuna gives it out only when it is asked."""
    import optuna

    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _told(search: Search, trial: Trial, state: optuna.trial.TrialState, cause: str) -> Told:
    study = _study(search)
    _handle(study, trial.number).set_user_attr(CAUSE, cause.splitlines()[0] if cause else "")
    study.tell(trial.number, state=state)
    return listed(search)[trial.number]


def _validations(folder: Path, metric: str) -> dict[int, float]:
    """The metric by step."""
    records = journal.read(folder / "metrics.jsonl")
    evals = [(record.step or 0, record.values.get(metric)) for record in records if record.kind == "eval"]
    return {step: value for step, value in evals if isinstance(value, float)}


def _score(folder: Path, metric: str) -> float | None:
    """The metric at the step whose weights the model has; without early stopping, the last validation's."""
    measured = _validations(folder, metric)
    trained = files.read_json(folder / fit.TRAINED)["values"]
    return measured.get(trained["best_step"] or max(measured, default=0))
