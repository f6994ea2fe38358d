"""Pushes to a loopback Hub that fails in every way at every request, and pushes that are killed there.

python benchmarks/publishing.py [--json] [--every N] [--random N]
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import results
from results import Row

from smollm3_ft import files

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "publishing_trials.py"
AT_ONCE = 4  # they wait more than they work
SHARE = 0.05  # of the requests that go wrong at random
SEED = 20261130
NAMES = {
    "status_429": "429, with a second to wait",
    "status_500": "500",
    "status_503": "503",
    "drop": "connection dropped",
    "lost": "done, reply lost",
    "truncated": "done, reply cut short",
    "stalled": "no reply",
    "killed": "killed before the request is worked on",
    "killed_after": "killed when it is done",
    "random": "each of these at random, 5 %",
    "refused": "403 from this request on",
}
COLUMNS = {
    "precision": "precision",
    "mask": "mask",
    "pushes": "pushes",
    "struck": "faults",
    "verified": "verified",
    "commits_twice": "twice",
    "half_written": "half",
    "median_s": "median s",
    "longest_s": "longest s",
    "told": "said what to do",
}
GOALS = {
    "pushes": (">=", 200.0),
    "verified": ("=", 1.0),
    "duplicate_commits": ("=", 0.0),
    "half_written_main": ("=", 0.0),
}


def trials(requests: dict[bool, int], every: int, at_random: int) -> Iterator[list[Any]]:
    """Every kind of fault at every request (or each `every`th) of a first push and of one over an older model."""
    for kind in NAMES:
        if kind == "random":
            yield from ([kind, n % 2 == 0, None, SEED + n, SHARE] for n in range(at_random))
        else:
            yield from ([kind, first, at] for first, last in requests.items() for at in range(1, last + 1, every))


def measure_all(every: int, at_random: int, folder: Path) -> Row:
    counted = run([[]], folder / "counted")[0]["requests"]  # in pushes that nothing disturbs
    wanted = list(trials(dict(zip((True, False), counted, strict=True)), every, at_random))
    found = [
        one for part in run([wanted[n::AT_ONCE] for n in range(AT_ONCE)], folder / "all") for one in part["trials"]
    ]
    told: Row = {"device": measure.processor(), "versions": measure.versions("huggingface_hub"), "requests": counted}
    by_kind = {kind: [one for one in found if one["kind"] == kind] for kind in NAMES}
    rows = [{"contender": kind, **told, **row_of(ones)} for kind, ones in by_kind.items() if ones]
    failed = [one for one in found if one["kind"] != "refused" and not one["verified"]]
    return {"schema_version": 1, **told, "rows": rows, "failed": failed, "goals": goals_of(rows)}


def run(parts: list[list[Any]], folder: Path) -> list[Row]:
    """Each part in a process with a Hub and a client of its own, all at once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    started = []
    for number, part in enumerate(parts):
        place = folder / str(number)
        files.write(place / "trials.json", json.dumps(part))
        words = [str(place / "trials.json"), str(place), str(place / "result.json")]
        started.append((place, subprocess.Popen([sys.executable, str(SCRIPT), *words], env=environment)))
    codes = [process.wait() for _, process in started]
    if any(codes):
        raise RuntimeError(f"a process of {SCRIPT.name} ended with {codes}")
    return [files.read_json(place / "result.json") for place, _ in started]


def row_of(ones: list[Row]) -> Row:
    """What became of the pushes of a row."""
    seconds = sorted(one["seconds"] for one in ones)
    return {
        "precision": None,
        "mask": None,
        "pushes": len(ones),
        "struck": sum(one["struck"] for one in ones),
        "verified": sum(one["verified"] for one in ones),
        "commits_twice": sum(one["commits_twice"] for one in ones),
        "half_written": sum(one["half_written"] for one in ones),
        "median_s": seconds[len(seconds) // 2],
        "longest_s": seconds[-1],
        "told": sum(bool(one["remedy"]) for one in ones) if ones[0]["kind"] == "refused" else None,
    }


def goals_of(rows: list[Row]) -> dict[str, Row]:
    """Every goal with its value and whether it is met. What the Hub forbids is not to be published."""
    allowed = [row for row in rows if row["contender"] != "refused"]
    pushes = sum(row["pushes"] for row in allowed)
    values = {
        "pushes": float(pushes),
        "verified": sum(row["verified"] for row in allowed) / pushes,
        "duplicate_commits": float(sum(row["commits_twice"] for row in rows)),
        "half_written_main": float(sum(row["half_written"] for row in rows)),
    }
    return results.judged(values, GOALS)


def table(result: Row) -> str:
    """All of it as text."""
    first, over = result["requests"]
    head = f"On {result['device']}; a first push makes {first} requests, one over an older model {over}."
    failed = [f"not verified: {one['kind']}, request {one['at']}, {one['error']}" for one in result["failed"]]
    return results.text(result, NAMES, COLUMNS, head, *failed)


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of a push's requests, each Nth fails (1)")
    parser.add_argument("--random", type=int, default=200, metavar="N", help="pushes with faults at random (200)")
    given = parser.parse_args()
    if given.every < 1 or given.random < 1:
        parser.error("at least one of each")
    with tempfile.TemporaryDirectory(prefix="benchmark-publishing-") as folder:
        result = measure_all(given.every, given.random, Path(folder))
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
