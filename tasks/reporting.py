"""The steps that close a run: links, next steps, report."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact

from smollm3_ft import pages, report
from smollm3_ft.errors import FinetuneError, Stopped, Undelivered
from smollm3_ft.monitoring import delivery
from smollm3_ft.redaction import redacted
from smollm3_ft.report import Failure, Status, Step
from smollm3_ft.runs import Run
from tasks import steps
from tasks.steps import ANEW, UNREACHABLE, call, log, options, task


@task(**{**options("links", timeout=120), **ANEW})
def links(run: Run) -> dict[str, str]:
    """Where the results lie: model, data, metrics, Trackio, and what of it is on the Hub."""
    found = report.links(run)
    lines = [f"- {name}: {pages.link(place)}" for name, place in found.items()]
    if run.config.monitor.trackio == "local":
        lines.append(f"- Trackio's curves, on that machine: `smollm3-ft dashboard runs_dir={run.path.parent}`")
    create_markdown_artifact("\n".join(lines), key="links", description=f"Results of {run.name}")
    return found


@task(**{**options("next steps", timeout=120), **ANEW})
def next_steps(run: Run, status: Status) -> list[str]:
    """What to do now."""
    return report.next_steps(run, status)


@task(**{**options("report", timeout=1800), **ANEW})
def write_report(run: Run, status: Status, done: list[Step], failure: Failure | None) -> dict[str, Any]:
    """Write the summary."""
    written = report.write(run, status, done, failure)
    text = report.render("report.md", run, written)
    create_markdown_artifact(text, key="report", description=f"Report of {run.name}")
    for name in written.get("monitoring", {}):
        try:
            delivery.finish(name, run)
        except Undelivered as error:  # the next start hands it over
            log.warning("the report was not handed over: %s", error)
    return written


def close(run: Run, status: Status, failure: Failure | None = None) -> dict[str, Any]:
    """Links, next steps and report, also after a failure."""
    call(links, run)
    call(next_steps, run, status)
    return call(write_report, run, status, list(steps.HERE.get()), failure)


def close_failed(run: Run, error: Exception) -> None:
    """Close a run that failed or was interrupted. Without a Prefect server the truth is on disk all the same."""
    status: Status = "interrupted" if isinstance(error, Stopped) else "failed"
    failure = failure_of(error) if status == "failed" else None  # before a step that closes the run may fail
    if not isinstance(error, UNREACHABLE):
        try:
            close(run, status, failure)
        except UNREACHABLE as second:
            log.warning("Prefect could not be told: %s", second)
        else:
            return
    report.write(run, status, list(steps.HERE.get()), failure)


def failure_of(error: BaseException) -> Failure:
    """The failed step, the cause in a line, and what to do."""
    bad = (one.name for one in reversed(steps.HERE.get()) if one.state not in _GOOD)
    step = next((name for name in bad if not name.startswith(_BESIDE)), "finetune")
    if isinstance(error, UNREACHABLE):
        log.warning("the Prefect server: %s", error, extra={"send_to_api": False})
        error = steps.away(error)
    if isinstance(error, FinetuneError):
        return Failure(step, redacted(error.message), redacted(error.remedy or "run the same command to go on"))
    cause = redacted(f"{type(error).__name__}: {error}".splitlines()[0])
    return Failure(step, cause, "see the step's log in the browser (smollm3-ft ui), then run the same command to go on")


_GOOD = ("Completed", "Cached", "Blocked")
_BESIDE = "monitor "  # recorded behind the training, and never what failed it
