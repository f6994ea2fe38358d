"""`smollm3-ft doctor`: what this machine can do, and what keeps it from more; each line with its remedy."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import server
from smollm3_ft import doctor, findings, nvidia, services
from smollm3_ft.findings import Finding, Look

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "fault": "[red]✗[/]"}
POOLS = ("default", "cuda")
SECONDS = 8.0  # for all who are asked, at the same time
NO_SERVER = "no server is named: each command starts its own on this machine"


def command(
    runs_dir: Annotated[str, typer.Argument(help="The folder of all runs.", metavar="[runs_dir=FOLDER]")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """What works here, what does not, and what to do about it. Exit code 1 where there is a fault."""
    found = examined(Path(runs_dir.removeprefix("runs_dir=")).absolute())
    if as_json:
        checks = [{"name": name, **finding._asdict()} for name, finding in found.items()]
        typer.echo(json.dumps({"schema_version": 1, "checks": checks}, indent=2, ensure_ascii=False))
    else:
        show(Console(highlight=False), found)
    if any(finding.status == "fault" for finding in found.values()):
        raise typer.Exit(1)


def examined(runs_dir: Path) -> dict[str, Finding]:
    """Every check's finding."""
    if os.environ.get("PREFECT_API_URL"):
        importlib.import_module("prefect.client.orchestration")  # takes seconds, which are none of the server's
    here = {**doctor.of_this_machine(runs_dir), "cuda": nvidia.cuda, "variables": doctor.variables}
    found = findings.examine(here, nvidia.SECONDS_TO_START + SECONDS)
    return {**found, **findings.examine({**services.checks(), **of_prefect()}, SECONDS)}


def show(console: Console, found: dict[str, Finding]) -> None:
    """A line each, and its remedy below."""
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding in found.items():
        remedy = f"\n[dim]→[/] {escape(finding.remedy)}" if finding.remedy else ""
        table.add_row(MARKS[finding.status], name, f"{escape(finding.detail)}{remedy}")
    console.print(table)
    counts = {status: sum(one.status == status for one in found.values()) for status in ("fault", "warning")}
    if counts["fault"]:
        console.print(f"\n[red]{counts['fault']} to be mended[/], {counts['warning']} to know of.")
    else:
        console.print(f"\n[green]Nothing is broken[/], {counts['warning']} to know of.")


def of_prefect() -> dict[str, Look]:
    return {"prefect": prefect, "workers": workers}


def prefect() -> Finding:
    """Whether the server that is named is there, of a version that fits, and lets us in."""
    named = os.environ.get("PREFECT_API_URL")
    if not named:
        return Finding("ok", NO_SERVER)
    if not server.listens(named):
        remedy = "start it (make up, or the team's), or unset PREFECT_API_URL for one of your own"
        return Finding("fault", f"PREFECT_API_URL names {server.shown(named)}, which does not answer", remedy)
    import httpx
    from packaging.version import Version
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            there, here = Version(client.api_version()), Version(client.client_version())
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            remedy = "set PREFECT_API_AUTH_STRING to its name:password (Prefect Cloud: PREFECT_API_KEY)"
            return Finding("fault", f"{server.shown(named)} does not let us in", remedy)
        return Finding("fault", f"{server.shown(named)} answers {error.response.status_code}", "see the server's log")
    except (httpx.HTTPError, ValueError, RuntimeError) as error:
        what = f"{server.shown(named)} is no Prefect server that we understand ({type(error).__name__})"
        return Finding("fault", what, "see PREFECT_API_URL: it ends in /api")
    if there.release[:2] < here.release[:2]:
        remedy = f"update the server to {here}"
        return Finding("warning", f"{server.shown(named)} is of version {there}, older than {here} here", remedy)
    return Finding("ok", f"{server.shown(named)}, version {there}")


def workers() -> Finding:
    """Which of the pools are there, and how many workers of each are online."""
    named = os.environ.get("PREFECT_API_URL")
    if not named:
        return Finding("ok", "none needed: a run trains in the command that starts it")
    if not server.listens(named):
        return Finding("warning", "not known without the server", "see prefect")
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            pools = {pool.name: pool for pool in client.read_work_pools()}
            online = {
                name: sum(one.status == "ONLINE" for one in client.read_workers_for_work_pool(name)) for name in pools
            }
    except (httpx.HTTPError, PrefectHTTPStatusError, ValueError, RuntimeError):
        return Finding("warning", "the server does not tell", "see prefect")
    missing = [name for name in POOLS if name not in pools]
    told = [f"{name} {count} online{' (paused)' if pools[name].is_paused else ''}" for name, count in online.items()]
    if missing:
        what = "; ".join(filter(None, (f"no pool {' and no pool '.join(missing)}", ", ".join(told))))
        return Finding("warning", what, "make deploy")
    idle = [name for name in POOLS if not online[name]]
    if idle:
        return Finding("warning", ", ".join(told), f"make worker, where pool {' or '.join(idle)} is to be served")
    return Finding("ok", ", ".join(told))
