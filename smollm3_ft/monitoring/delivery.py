"""How records get from a run's journals to a sink: in batches, again where it failed, from where it was left.

Where a delivery stands is in the run's folder, for each sink and each place that it was told to deliver to. It is
written behind each batch: after a crash a batch may be delivered twice, and none is left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from smollm3_ft import files, journal, locks, monitoring, runs
from smollm3_ft.errors import Undelivered
from smollm3_ft.runs import Run

JOURNALS = ("metrics.jsonl", "host.jsonl")
AT_ONCE = 256 * 1024  # bytes of a journal, about 500 records
LONGEST_WAIT = 60.0  # seconds between tries, while training goes on
AT_THE_END = 10.0  # seconds for what is left when the training has ended; then the next start delivers it
ATTACHED = "attached"
OFF = ("off", "none")  # of Trackio, of the dataset

Say = Callable[[str], None]


class Standing(NamedTuple):
    """How many records of a run's journals a sink has, and how many still wait."""

    delivered: int
    waiting: int


def follow(name: str, run: Run, stop: threading.Event, say: Say) -> Standing:
    """Deliver what the journals gain until told to stop, and then the rest. Training never waits for it.

    What a sink that is away is said to be, is said once. Raises Undelivered where it is still away AT_THE_END seconds
    after the training's end.
    """
    usual = monitoring.SECONDS_BETWEEN[name]
    wait, said, deadline = usual, "", float("inf")
    while True:
        ending = stop.is_set()
        if ending:
            deadline = min(deadline, time.monotonic() + AT_THE_END)
        try:
            deliver_new(name, run)
        except Undelivered as error:
            if str(error) != said:
                said = str(error)
                say(said)
            if time.monotonic() >= deadline:
                raise
            wait = 1.0 if ending else min(2 * wait, LONGEST_WAIT)
        else:
            if ending:
                return standing(name, run)
            wait, said = usual, ""
        if ending:
            time.sleep(wait)
        else:
            stop.wait(wait)


def deliver_new(name: str, run: Run) -> int:
    """Deliver every record that this sink has not had. Returns their number; raises Undelivered."""
    delivered = 0
    if name in monitoring.AT_ONCE:
        found = {file: journal.read_new(run.path / file, _offsets(name, run).get(file, 0)) for file in JOURNALS}
        everything = [record for records, _ in found.values() for record in records]
        if everything:
            monitoring.SINKS[name](run, everything)
        for file, (records, offset) in found.items():
            if records:
                _keep(name, run, file, offset)
        return len(everything)
    for file in JOURNALS:
        for records, offset in _batches(run, file, _offsets(name, run).get(file, 0)):
            monitoring.SINKS[name](run, records)
            _keep(name, run, file, offset)
            delivered += len(records)
    return delivered


def deliver_left(name: str, run: Run) -> int:
    """Deliver what earlier runs of the same folder, that nobody works on, still have for the same place.

    Returns the number of records; raises Undelivered.
    """
    delivered = 0
    for other in runs.listed(run.path.parent):
        same = other.name != run.name and _target(name, other) == _target(name, run)
        if same and not locks.is_held_by_the_living(run.path.parent, other.name):
            delivered += deliver_new(name, other)
            if (other.path / "report.json").is_file():
                finish(name, other)
    return delivered


def finish(name: str, run: Run) -> None:
    """Hand over what there is at the end of a run, once. Raises Undelivered."""
    mark = files.sha256(run.path / "report.json")
    if _state(name, run).get(ATTACHED) != mark:
        monitoring.FINISHING[name](run)
        _keep(name, run, ATTACHED, mark)


def standing(name: str, run: Run) -> Standing:
    """How far the delivery is, by the journals as they are now."""
    offsets, delivered, waiting = _offsets(name, run), 0, 0
    for file in JOURNALS:
        everything = len(journal.read(run.path / file))
        left = len(journal.read_new(run.path / file, offsets.get(file, 0))[0])
        delivered, waiting = delivered + everything - left, waiting + left
    return Standing(delivered, waiting)


def standings(run: Run) -> dict[str, dict[str, int | str]]:
    """For the report: of each sink that is on, where it delivers to, and how far it is."""
    on = [name for name in monitoring.SINKS if _target(name, run) not in OFF]
    return {name: {"target": _target(name, run), **standing(name, run)._asdict()} for name in on}


def _batches(run: Run, file: str, offset: int) -> Iterator[tuple[list[journal.Record], int]]:
    while True:
        records, offset = journal.read_new(run.path / file, offset, AT_ONCE)
        if not records:
            return
        yield records, offset


def _target(name: str, run: Run) -> str:
    """The place that the sink of this name delivers to, as the configuration has it."""
    return str(run.config.monitor.model_dump().get(name, "none"))


def _state(name: str, run: Run) -> dict[str, int | str]:
    places = files.read_json_if_there(run.path / f".delivered-{name}.json").get("places", {})
    return dict(places.get(_target(name, run), {}))


def _offsets(name: str, run: Run) -> dict[str, int]:
    return {file: int(offset) for file, offset in _state(name, run).items() if file in JOURNALS}


def _keep(name: str, run: Run, what: str, value: int | str) -> None:
    saved = run.path / f".delivered-{name}.json"
    places = files.read_json_if_there(saved).get("places", {})
    mine = {**places.get(_target(name, run), {}), what: value}
    files.write_json(saved, {"places": {**places, _target(name, run): mine}})
