"""Metrics from a run's journals to where people look at them. A sink that is away costs training nothing.

`SINKS[name](run, records)` delivers records of a run, in the order of its journals, or raises Undelivered; `name` is
the sink's key in the configuration's section `monitor`. A record may be delivered twice, and must have one effect: its
id tells. `FINISHING[name](run)` hands over what there is when the report is written. Where a delivery stands is kept by
`delivery.py`. A new sink is one file and one entry.
"""

from __future__ import annotations

from collections.abc import Callable

from smollm3_ft.journal import Record
from smollm3_ft.monitoring import trackio_sink
from smollm3_ft.runs import Run

Sink = Callable[[Run, list[Record]], None]
SINKS: dict[str, Sink] = {"trackio": trackio_sink.deliver}
FINISHING: dict[str, Callable[[Run], None]] = {"trackio": trackio_sink.attach}
SECONDS_BETWEEN = {"trackio": 5.0}  # deliveries, while all goes well
