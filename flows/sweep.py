"""A search: `python -m flows.sweep [RECIPE or FILE.yaml] [key=value ...] [sweep.key=value ...]`."""

if __name__ == "__main__":  # before Prefect is imported: a wrong key is answered at once
    import sys

    from flows.sweep_command import sweep

    sys.exit(sweep())

import contextvars
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.runtime import flow_run

from flows.finetune import finetune_flow
from smollm3_ft import locks, pruning, runs, sweeping, sweepreport, trials
from smollm3_ft.config import Config, pool_of
from smollm3_ft.errors import ConfigError, DataError, Stopped, TrainingError
from smollm3_ft.searchspace import Sweep
from smollm3_ft.sweeping import Search
from smollm3_ft.trials import Told, Trial
from tasks import pool_trials, remote, steps
from tasks.pool_trials import Child
from tasks.setup import close_former, name_flow_run
from tasks.steps import ANEW, call, flow, options, task
from tasks.sweeping import report_sweep, resolve_sweep


def _run_name() -> str:
    return str(flow_run.parameters["config"].name or flow_run.name)  # until one is settled


@flow(name="sweep", flow_run_name=_run_name, persist_result=True)
def sweep_flow(config: Config, sweep: Sweep) -> dict[str, Any]:
    """Search for better values, each trial a fine-tuning of its own. Returns the sweep's report."""
    steps.HERE.set([])
    search = call(resolve_sweep, config, sweep)
    with locks.hold(search.runs_dir, sweeping.lock(search.name)):
        close_former(search)
        name_flow_run(search)
        try:
            _trials(search)
            _publish_best(search)
        except BaseException as error:  # no more steps, but the truth on disk
            failed = isinstance(error, Exception) and not isinstance(error, Stopped)
            try:
                sweepreport.write(search, "failed" if failed else "interrupted")
            except Exception as second:  # noqa: BLE001  # no disk: the first error is the one to tell
                steps.log.warning("the report could not be written: %s", second)
            raise
        return call(report_sweep, search, "completed")


def _trials(search: Search) -> None:
    pool = pool_of(search.config)
    if pool is None:
        _one_by_one(search)
    else:
        with get_client(sync_client=True) as client:
            try:
                _on_pool(client, search, pool)
            except BaseException:
                remote.end_children_of(client, uuid.UUID(str(flow_run.id)))
                raise
    all_told = trials.listed(search)
    if trials.best(all_told, search.sweep) is None:
        raise TrainingError(f"no trial was completed: {all_told[0].cause}", "see the trials' reports")


def _on_pool(client: SyncPrefectClient, search: Search, pool: str) -> None:
    """As many trials at once as the pool has workers. One that somebody cancels is left alone, and noted at the end."""
    children: dict[int, Child] = {}
    ended: list[Told] = []
    while True:
        for trial in _more(client, search, pool, children, ended):
            _announce(search, trial)
            _note(search, children, ended, trial, pool_trials.begin(client, search, pool, trial))
        if all(child.is_cancelled for child in children.values()):
            break
        time.sleep(remote.SECONDS_BETWEEN_LOOKS)
        for child in tuple(children.values()):
            _note(search, children, ended, child.trial, pool_trials.look(client, search, child))
    for child in children.values():
        _say(search, trials.failed(search, child.trial, "its flow run was cancelled"))


def _more(
    client: SyncPrefectClient, search: Search, pool: str, children: dict[int, Child], ended: list[Told]
) -> Iterator[Trial]:
    """Trials to begin now."""
    most = pool_trials.at_once(client, search, pool)
    while sum(not child.is_cancelled for child in children.values()) < most:
        trial = trials.next_trial(search, children, ended)
        if trial is None:
            return
        yield trial


def _note(search: Search, children: dict[int, Child], ended: list[Told], trial: Trial, now: Child | Told) -> None:
    if isinstance(now, Told):
        children.pop(trial.number, None)
        ended.append(now)
        _say(search, now)
    else:
        children[trial.number] = now


def _one_by_one(search: Search) -> None:
    ended: list[Told] = []
    while (trial := trials.next_trial(search, ended=ended)) is not None:
        _announce(search, trial)
        ended.append(_tried(search, trial))
        _say(search, ended[-1])


def _announce(search: Search, trial: Trial) -> None:
    values = ", ".join(f"{key}={sweepreport.shown(value)}" for key, value in trial.values.items())
    steps.log.info("trial %d of %d: %s", trial.number + 1, search.sweep.trials, values, extra={"heading": True})


def _say(search: Search, told: Told) -> None:
    ended, value = sweepreport.described(told._asdict(), None), sweepreport.shown(told.value)
    steps.log.info("%s: %s, %s %s", told.name, ended, search.sweep.metric, value, extra={"heading": True})
    sweepreport.write(search, "interrupted")  # until it is not


def _tried(search: Search, trial: Trial) -> Told:
    """Train, and tell Optuna how it ended. A trial's own failure is not the sweep's."""
    folder = search.runs_dir / trial.name
    if trials.judged_hopeless(search, trial):  # before a kill of the sweep, or by what its journal has from then
        return trials.pruned(search, trial, str(pruning.reason(folder)))
    try:
        call(train_trial.with_options(name=trial.name, task_run_name=trial.name), search, trial)
    except (ConfigError, DataError, TrainingError) as error:
        why = pruning.reason(folder)
        if why is not None:
            return trials.pruned(search, trial, why)
        if isinstance(error, Stopped):
            raise
        return trials.failed(search, trial, error.message)
    return trials.completed(search, trial)


# Its steps have their own retries and timeouts; whether it is done, Optuna's storage says.
@task(**{**options("trial", timeout=None, retries=0), **ANEW})
def train_trial(search: Search, trial: Trial) -> None:
    """Fine-tune as a trial says, here, while its journal is followed; ends it where it is hopeless."""
    config = trials.configuration(search, trial)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(trials.follow, search, trial, stop)
        try:
            contextvars.copy_context().run(finetune_flow, config)
        finally:
            stop.set()
    following.result()


def _publish_best(search: Search) -> None:
    """Go on with the best trial's run, to where `publish` says."""
    best = trials.best(trials.listed(search), search.sweep)
    if not search.sweep.publish_best or best is None:
        return
    trained = runs.read(search.runs_dir / best.name).config
    config = trained.model_copy(update={"publish": search.config.publish})
    steps.log.info("publishing the best trial, %s", best.name, extra={"heading": True})
    contextvars.copy_context().run(finetune_flow, config)
