"""Trackio as a sink: `monitor.trackio` says whether it is on this machine, on a server, or on a Space."""

from __future__ import annotations

from typing import Any

from smollm3_ft.config import tracker_of
from smollm3_ft.journal import Record
from smollm3_ft.monitoring import local_trackio, trackio_rows
from smollm3_ft.runs import Run


def deliver(run: Run, records: list[Record]) -> None:
    """Give Trackio records. Raises Undelivered."""
    _place(run).log(run, trackio_rows.of(run, records))


def attach(run: Run) -> None:
    """Give Trackio the run's report, ledger and curve as an artifact; then a Space needs its token no more.

    Raises Undelivered.
    """
    if attachments := trackio_rows.attachments(run):  # of a run that failed early there may be nothing to show
        _place(run).attach(run, attachments)
    if tracker_of(run.config) == "space":
        from smollm3_ft.monitoring import trackio_space

        trackio_space.give_read_token(run.config.monitor.trackio)


def _place(run: Run) -> Any:
    if tracker_of(run.config) == "local":
        return local_trackio
    from smollm3_ft.monitoring import remote_trackio  # with an HTTP client, which no other command needs

    return remote_trackio
