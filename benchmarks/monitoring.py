"""What the journal and its delivery cost, and whether anything is lost or comes twice in a long outage.

python benchmarks/monitoring.py [--json] [--records N] [--outage SECONDS]
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import monitoring_outage
import results
import training_ours

Row = results.Row
SCRIPT = Path(__file__).parent / "monitoring_cost.py"
GOALS = {
    "journal_share": ("<=", 0.01),
    "log_median_us": ("<=", 100.0),
    "points_lost": ("=", 0.0),
    "points_twice": ("=", 0.0),
}
NAMES = {
    "training": "journal, in a training of the demo",
    "journal": "journal, alone",
    "local": "Trackio on this machine",
    "server": "Trackio on a server, over HTTP",
    "dataset": "experiment dataset, one push's files",
    "outage": "Trackio on a server that is away",
}
COLUMNS = {
    "precision": "precision",
    "mask": "mask",
    "records": "records",
    "median_us": "median µs",
    "cpu_s": "CPU-s",
    "cpu_ms_a_1000": "CPU-ms/1000",
    "cpu_ms_a_delivery": "CPU-ms/delivery",
    "share_percent": "% of step time",
    "lost": "lost",
    "twice": "twice",
}
DEMO = {"train__logging_steps": 1, "train__max_steps": 300, "train__save_steps": 100}
NOTHING = dict.fromkeys(COLUMNS)


def in_training(folder: Path) -> Row:
    """The built-in model on the demo's rows, a line of the journal at every step: time inside journal calls."""
    found = training_ours.train(Path("builtin:tiny"), Path("builtin:demo"), folder, DEMO)
    seconds = sum(float(step["wall_s"]) for step in found["steps"])
    share = found["journal_s"] / seconds
    return {
        **NOTHING,
        "precision": found["precision"],
        "mask": "assistant",
        "records": len(found["steps"]),
        "share": share,
        "share_percent": 100 * share,
    }


def cost(name: str, records: int, folder: Path) -> Row:
    """One way of writing or delivering, in a fresh process."""
    found = measure.in_fresh_process(SCRIPT, [name, str(records), str(folder / name)], folder / f"{name}.json")
    return {**NOTHING, **{key: found[key] for key in COLUMNS if key in found}}


def measure_all(records: int, outage: float, folder: Path) -> Row:
    rows = {"training": in_training(folder)}
    for name in ("journal", "local", "server", "dataset"):
        rows[name] = cost(name, records, folder)
        _say(name, rows[name])
    rows["outage"] = {**NOTHING, **monitoring_outage.measure(folder / "outage", outage)}
    _say("outage", rows["outage"])
    told: dict[str, Any] = {"device": measure.processor(), "versions": measure.versions("trackio")}
    named = [{"contender": name, **told, **row} for name, row in rows.items()]
    return {"schema_version": 1, **told, "outage_s": outage, "rows": named, "goals": goals_of(rows)}


def goals_of(rows: dict[str, Row]) -> dict[str, Row]:
    """Every goal with its value and whether it is met."""
    values = {
        "journal_share": rows["training"]["share"],
        "log_median_us": rows["journal"]["median_us"],
        "points_lost": rows["outage"]["lost"],
        "points_twice": rows["outage"]["twice"],
    }
    return results.judged(values, GOALS)


def _say(name: str, row: Row) -> None:
    print(f"{name}: { ({key: value for key, value in row.items() if value is not None}) }", file=sys.stderr, flush=True)


def table(result: Row) -> str:
    """All of it as text."""
    first = f"On {result['device']}; the outage took {result['outage_s']:.0f} s."
    return results.text(result, NAMES, COLUMNS, first)


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--records", type=int, default=20_000, metavar="N", help="of a journal (20,000)")
    parser.add_argument("--outage", type=float, default=120, metavar="SECONDS", help="that the server is away (120)")
    given = parser.parse_args()
    if given.records < 100 or given.outage <= 0:
        parser.error("at least 100 records, and an outage of more than no time")
    with tempfile.TemporaryDirectory(prefix="benchmark-monitoring-") as folder:
        result = measure_all(given.records, given.outage, Path(folder))
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
