"""The steps of a sweep beside its trials: settled once, and reported."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from smollm3_ft import locks, plan, resolve, sweeping, sweepreport, trials
from smollm3_ft.config import Config
from smollm3_ft.searchspace import Sweep
from smollm3_ft.sweeping import Search
from tasks import pool_trials, remote
from tasks.steps import done, options, task


@task(**options("resolve sweep", timeout=120, retries=0))
def resolve_sweep(config: Config, sweep: Sweep) -> Search:
    """Fill in every key, check the space, settle the name once for this flow run, and begin or find the sweep."""
    resolved = resolve.resolve(config).config
    runs_dir = Path(resolved.runs_dir)
    plan.check_writable(runs_dir)
    remote.check(resolved, pool_trials.DEPLOYMENT)
    if resolved.name is None:
        started = flow_run.scheduled_start_time or datetime.datetime.now(datetime.UTC)
        resolved = resolved.model_copy(update={"name": sweeping.new_name(runs_dir, started)})
    assert resolved.name is not None
    with locks.hold(runs_dir, sweeping.lock(resolved.name)):
        search = sweeping.begin(resolved, sweep)
        trials.check_unfinished(search, accept_changes=False)
    return done(f"{sweep.trials} trials of {', '.join(sweep.space)}", search)


@task(**{**options("report sweep", timeout=300), "cache_policy": NO_CACHE})  # a retried sweep has a new one
def report_sweep(search: Search, status: str) -> dict[str, Any]:
    """Write the table and the plot, and show both."""
    written = sweepreport.write(search, status)
    rows = sweepreport.rows(search, written)
    create_table_artifact(rows, key="sweep-trials", description=f"Trials of {search.name}")
    text = sweepreport.render("report.md", search, written)
    plot = sweepreport.plot(search, written)
    if plot:
        svg = base64.b64encode(str(plot).encode()).decode()
        text += f"\n![by trial](data:image/svg+xml;base64,{svg})\n"
    create_markdown_artifact(text, key="sweep", description=f"What {search.name} found")
    return written
