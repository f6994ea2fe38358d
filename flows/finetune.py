"""The pipeline: `python -m flows.finetune [RECIPE or FILE.yaml] [key=value ...]`, or a deployment's entrypoint."""

if __name__ == "__main__":  # before Prefect is imported: a wrong key is answered at once
    import sys

    from flows.cli import finetune

    sys.exit(finetune())

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from smollm3_ft import gate, locks, report
from smollm3_ft.config import Config, pool_of
from smollm3_ft.data import Prepared
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal
from smollm3_ft.plan import Plan
from smollm3_ft.runs import Run
from tasks import monitoring, remote, steps
from tasks.data import prepare_data
from tasks.evaluating import Evaluated
from tasks.publishing import publish_and_verify
from tasks.reporting import close, close_failed
from tasks.setup import (
    authenticate,
    check_environment,
    check_retried,
    close_former,
    name_flow_run,
    plan_run,
    resolve_configuration,
)
from tasks.steps import call, flow
from tasks.training import Trained, fit_run, the_device, train_on_device


def _run_name() -> str:
    return str(flow_run.parameters["config"].name or flow_run.name)  # until one is settled


@flow(name="finetune", flow_run_name=_run_name, persist_result=True)
def finetune_flow(config: Config) -> dict[str, Any]:
    """Fine-tune SmolLM3 from a configuration to a verified model and a report. Returns the report."""
    steps.HERE.set([])
    run = call(resolve_configuration, config)
    with locks.hold(Path(run.config.runs_dir), run.name) as lock:
        close_former(run)
        name_flow_run(run)
        try:
            _steps(run, lock)
            why = gate.blocked(run.path)
            if why is not None:
                return steps.blocked(why, close(run, "blocked"))
            return close(run, "completed")
        except Exception as error:
            try:
                close_failed(run, error)
            except Exception as second:  # noqa: BLE001  # no disk: the first error is the one to tell
                steps.log.warning("the report could not be written: %s", second)
            raise
        except BaseException:  # Ctrl-C, SIGTERM: no more steps, but the truth on disk
            report.write(run, "interrupted", list(steps.HERE.get()))
            raise


def _steps(run: Run, lock: int) -> None:
    check_retried(run)
    call(check_environment, run)
    call(authenticate, run)
    plan = plan_run(run)
    tracker = call(monitoring.deploy_tracker, run)
    call(monitoring.configure_tracker, run, tracker)
    call(monitoring.set_up_experiment_dataset, run)
    prepared = prepare_data(run, plan)
    pool = pool_of(run.config)
    if pool is None:
        with the_device(run) as device:
            training, trained, tuned = _train_here(run, plan, prepared, (lock, device))
    else:
        call(remote.MONITOR_SYSTEM, run, pool)
        stop = threading.Event()
        with steps.beside(_carriers(run, stop), stop):
            training, trained, tuned = remote.train_on_pool(run, pool)
    publish_and_verify(run, training, trained, tuned)


def _train_here(
    run: Run, plan: Plan, prepared: Prepared, held: Sequence[int]
) -> tuple[TrainingPlan, Trained, Evaluated]:
    training = fit_run(run, plan, prepared)
    stop, last = threading.Event(), threading.Event()
    with Journal(run.path / "host.jsonl", run.run_id) as host, steps.beside(_carriers(run, last), last):
        watching = {"monitor system": monitoring.monitor_system.submit(run, host, stop)}
        with steps.beside(watching, stop):  # its last sample is carried too
            trained, tuned = train_on_device(run, training, host, held)
    return training, trained, tuned


def _carriers(run: Run, stop: threading.Event) -> dict[str, PrefectFuture[int]]:
    """The steps that carry the journals to where they are looked at, from whichever machine writes them."""
    return {
        "monitor trackio": monitoring.monitor_trackio.submit(run, stop),
        "monitor dataset": monitoring.monitor_dataset.submit(run, stop),
    }
