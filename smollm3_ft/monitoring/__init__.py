"""Metrics from a run's journals to where people look at them. A sink that is away costs training nothing.

`SINKS[name](run, records)` delivers records of a run, in the order of its journals, or raises Undelivered; `name` is
the sink's key in the configuration's section `monitor`. A record may be delivered twice, and must have one effect: its
id tells. `FINISHING[name](run)` hands over what there is when the report is written. Where a delivery stands is kept by
`delivery.py`. A new sink is one file and one entry.
"""

from __future__ import annotations

from collections.abc import Callable

from smollm3_ft.journal import Record
from smollm3_ft.monitoring import dataset_sink, trackio_sink
from smollm3_ft.runs import Run

Sink = Callable[[Run, list[Record]], None]
SINKS: dict[str, Sink] = {"trackio": trackio_sink.deliver, "dataset": dataset_sink.deliver}
FINISHING: dict[str, Callable[[Run], None]] = {"trackio": trackio_sink.attach, "dataset": dataset_sink.finish}
SECONDS_BETWEEN = {"trackio": 5.0, "dataset": 300.0}  # deliveries, while all goes well
AT_ONCE = ("dataset",)  # is told of all that is new in one call: each makes a commit
