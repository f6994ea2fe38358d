"""The step that prepares the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.artifacts import create_table_artifact

from smollm3_ft import data, fit, inspection, probes, runs
from smollm3_ft.data import Prepared
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.plan import Plan
from smollm3_ft.runs import Run
from tasks.steps import call, done, log, options, task

STEP = "prepare data"


@task(**options(STEP, timeout=24 * 3600))
def prepare(run: Run, plan: Plan, fingerprint: str, kept: Prepared | None) -> Prepared:
    """Read, account, split, render, tokenize, mask and pack."""
    asked = _request(run, plan).model_copy(update={"fingerprint": fingerprint})
    prepared = kept or data.prepare_apart(asked, log.info)
    told = (
        f"{source['kept']:,} of {source['rows']:,} rows of {source['source']} kept: {inspection.formats(source)}"
        for source in prepared.ledger["sources"]
    )
    return done("; ".join(told), prepared)


def _request(run: Run, plan: Plan) -> data.Request:
    config, model = run.config, plan.model
    folders = (Path(config.runs_dir), run.path / "data")
    return data.request(
        plan.sources, config.data, config.seed, config.train.method, Path(model.folder), model.chat_digest, *folders
    )


def prepare_data(run: Run, plan: Plan) -> Prepared:
    """The prepared data, shared by every run that asks for the same, and shown beside each of them."""
    runs_dir = Path(run.config.runs_dir)
    if runs.status(run.path) in runs.FINISHED:
        before = fit.read(run.path / "plan.json").prepared
        return call(prepare, run, plan, before.fingerprint, fingerprint=before.fingerprint, kept=before)
    marked = runs.marks(run).get(STEP, "")
    mark = _request(run, plan).fingerprint
    kept = data.reuse(runs_dir, marked) if marked else None
    if kept is not None:
        mark = marked
    elif (run.path / "plan.json").is_file() and mark != marked:
        what = f"the prepared data that run {run.name} trains on is gone, and what makes it changed since"
        raise ConfigError(Problem("data", what, "start over with --fresh"))
    else:
        kept = data.reuse(runs_dir, mark)
    prepared = call(prepare, run, plan, mark, fingerprint=mark, kept=kept)
    data.show(prepared, run.path / "data")
    probes.write(run.config, Path(plan.model.folder), run.path / "data" / probes.FILE)
    rows = [{name: _shown(value) for name, value in source.items()} for source in prepared.ledger["sources"]]
    create_table_artifact(rows, key="data-ledger", description=f"What became of every row of {run.name}")
    runs.set_mark(run, STEP, mark)
    return prepared


def _shown(value: Any) -> Any:
    """Counts by name as text, the rest as it is: a table's cell holds one value."""
    return (
        (", ".join(f"{count} {name}" for name, count in value.items()) or "none") if isinstance(value, dict) else value
    )
