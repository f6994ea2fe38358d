"""What writing or delivering a journal costs: python monitoring_cost.py NAME RECORDS FOLDER RESULT

The time is from behind the imports and the first record until all is there.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measure
import monitoring_server

from smollm3_ft import resolve, runs
from smollm3_ft.journal import Journal
from smollm3_ft.runs import Run

VALUES = {
    "loss": 1.2345678,
    "token_accuracy": 0.5,
    "tokens": 123456,
    "supervised_tokens": 65432,
    "mfu": 0.45,
    "tokens_per_second": 23456.7,
    "seconds_left": 345.6,
    "padding_share": 0.012,
    "learning_rate": 2e-5,
    "grad_norm": 0.987654,
    "epoch": 0.5,
    "memory_bytes": 12345678901,
}
SYSTEM_EVERY = 10
DELIVERIES = 100  # of a line or two each, as while training goes on


def begin(folder: Path, trackio: str) -> Run:
    monitor = {"trackio": trackio, "dataset": "tester/experiments"}
    return runs.begin(resolve.resolve({"name": "a", "runs_dir": str(folder), "monitor": monitor}, {}).config)


def write(run: Run, first: int, last: int) -> list[float]:
    """A training's records, and the machine's. Returns the seconds that each call took."""
    took = []
    metrics, host = (Journal(run.path / name, run.run_id) for name in ("metrics.jsonl", "host.jsonl"))
    with metrics, host:
        for step in range(first, last + 1):
            began = time.perf_counter()
            metrics.write("train", {**VALUES, "loss": 1 / step}, step)
            took.append(time.perf_counter() - began)
            if step % SYSTEM_EVERY == 0:
                host.write("system", {"cpu_percent": 50.0, "memory_bytes": 10**10})
    return took


def journal(count: int, folder: Path) -> dict[str, float]:
    run = begin(folder, "off")
    before = time.process_time()
    took = write(run, 1, count)
    return {**_cost(count, before), "median_us": 1e6 * statistics.median(took)}


def local(count: int, folder: Path) -> dict[str, float]:
    return _delivered(begin(folder, "local"), count)


def server(count: int, folder: Path) -> dict[str, float]:
    os.environ["TRACKIO_WRITE_TOKEN"] = monitoring_server.TOKEN
    with monitoring_server.served(folder / "server") as one:
        return _delivered(begin(folder / "runs", one.url), count)


def dataset(count: int, folder: Path) -> dict[str, float]:
    """Each push makes a run's files anew; this is of one, without the Hub."""
    from smollm3_ft import experimentfiles, experiments

    run = begin(folder, "off")
    write(run, 1, count)
    before = time.process_time()
    told = experiments.shared(experiments.of_run(run.path, False), texts=False)
    experimentfiles.made(told, experiments.values(run.path))
    return _cost(count, before)


def _delivered(run: Run, count: int) -> dict[str, float]:
    from smollm3_ft.monitoring import delivery

    write(run, 1, 1)
    delivery.deliver_new("trackio", run)
    write(run, 2, count)
    before = time.process_time()
    found = _cost(delivery.deliver_new("trackio", run), before)
    taken = 0.0
    for step in range(count + 1, count + 1 + DELIVERIES):
        write(run, step, step)
        before = time.process_time()
        delivery.deliver_new("trackio", run)
        taken += time.process_time() - before
    return {**found, "cpu_ms_a_delivery": 1e3 * taken / DELIVERIES}


def _cost(records: int, before: float) -> dict[str, float]:
    """User and system time of this process alone: what a server takes is the server's."""
    seconds = time.process_time() - before
    return {"records": records, "cpu_s": seconds, "cpu_ms_a_1000": 1e6 * seconds / records}


if __name__ == "__main__":
    name, count, folder, result = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    ways: dict[str, Callable[[int, Path], dict[str, float]]] = {
        "journal": journal,
        "local": local,
        "server": server,
        "dataset": dataset,
    }
    measure.done(result, ways[name](count, folder))
