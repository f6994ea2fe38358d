"""The pipeline: `python -m flows.finetune [RECIPE or FILE.yaml] [key=value ...]`, or a deployment's entrypoint."""

if __name__ == "__main__":  # before Prefect is imported: a wrong key is answered at once
    import sys

    from flows.cli import finetune

    sys.exit(finetune())

import threading
import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import wait
from prefect.runtime import flow_run

from smollm3_ft import locks, report
from smollm3_ft.config import Config
from smollm3_ft.errors import Stopped
from smollm3_ft.journal import Journal
from smollm3_ft.runs import Run
from tasks import monitoring, steps
from tasks.data import prepare_data
from tasks.publishing import publish_and_verify
from tasks.reporting import close
from tasks.setup import authenticate, check_environment, close_former, plan_run, resolve_configuration
from tasks.steps import call
from tasks.training import fit_run, train_on_device


def _run_name() -> str:
    return flow_run.parameters["config"].name or "finetune"


@flow(name="finetune", flow_run_name=_run_name, persist_result=True)
def finetune_flow(config: Config) -> dict[str, Any]:
    """Fine-tune SmolLM3 from a configuration to a verified model and a report. Returns the report."""
    steps.HERE.set([])
    run = call(resolve_configuration, config)
    with locks.hold(Path(run.config.runs_dir), run.name) as lock:
        close_former(run)
        try:
            _steps(run, lock)
        except Exception as error:
            try:
                close(run, "interrupted" if isinstance(error, Stopped) else "failed", error)
            except Exception as second:  # noqa: BLE001  # no disk, no server: the first error is the one to tell
                steps.log.warning("the report could not be written: %s", second)
            raise
        except BaseException:  # Ctrl-C, SIGTERM: no more steps, but the truth on disk
            report.write(run, "interrupted", list(steps.HERE.get()))
            raise
        return close(run, "completed")


def _steps(run: Run, lock: int) -> None:
    call(check_environment, run)
    call(authenticate, run)
    plan = plan_run(run)
    tracker = call(monitoring.deploy_tracker, run)
    call(monitoring.configure_tracker, run, tracker)
    call(monitoring.set_up_experiment_dataset, run)
    prepared = prepare_data(run, plan)
    training = fit_run(run, plan, prepared)
    host = Journal(run.path / "host.jsonl", run.run_id)
    stop, began = threading.Event(), time.monotonic()
    beside = {
        "monitor system": monitoring.monitor_system.submit(run, host, stop),
        "monitor trackio": monitoring.monitor_trackio.submit(run, stop),
        "monitor dataset": monitoring.monitor_dataset.submit(run, stop),
    }
    try:
        trained, tuned = train_on_device(run, training, host, lock)
    finally:
        stop.set()
        wait(list(beside.values()))
        host.close()
        for name, future in beside.items():  # their failure never fails a training; the report says it
            steps.record(name, future.state.name, time.monotonic() - began)
    publish_and_verify(run, training, trained, tuned)
