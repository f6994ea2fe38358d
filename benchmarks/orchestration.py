"""Orchestration: what a run of the demo takes beside its steps' own work.

python benchmarks/orchestration.py [--json] [--runs N] [--steps N] [--only NAME ...]
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import measure
import psutil
import results
from results import Row

from flows import server
from smollm3_ft import files

HERE = Path(__file__).parent
NAMES = {
    "first": "its very first start",
    "own_server": "starting its server",
    "running_server": "beside a running server",
    "library": "the steps alone, no Prefect",
}
COLUMNS = {
    "runs": "runs",
    "wall_s": "wall s",
    "steps_s": "steps' own s",
    "overhead_s": "overhead s",
    "before_s": "before",
    "between_s": "between",
    "within_s": "within",
    "after_s": "after",
    "cpu_s": "CPU s",
    "load": "load before",
}
GOALS = {"overhead_own_server_s": ("<=", 12), "overhead_running_server_s": ("<=", 5)}


def measure_all(place: Path, runs: int, steps: int | None, only: list[str]) -> Row:
    """Every row of the table, and the goals: medians over `runs` of each, one after the other in turn."""
    found: dict[str, list[Row]] = {name: [] for name in NAMES if name in only}
    if "own_server" in found and "first" not in found:
        with there(place, place / "home", "running_server"):
            pass  # the database is made: a second start is measured
    for number in range(runs):
        for name in found:
            if name != "first" or number == 0:
                found[name].append(measured(place / f"{name}-{number}", place / "home", name, steps))
                _say(f"{NAMES[name]}: {json.dumps(found[name][-1])}")
    device = {"device": measure.processor(), "versions": measure.versions("prefect")}
    told = {"precision": "float32", "mask": "assistant", **device}
    rows = [{"contender": name, **medians(taken), **told} for name, taken in found.items()]
    return {"schema_version": 1, **device, "rows": rows, "goals": results.judged(values_of(rows), GOALS)}


def measured(folder: Path, home: Path, name: str, steps: int | None) -> Row:
    """One demo run in a folder of runs of its own, so that nothing is reused, from start to end of its process."""
    folder.mkdir()
    words = ["recipe=demo", "name=demo", f"runs_dir={folder}", *([f"train.max_steps={steps}"] if steps else [])]
    script, clock = HERE / "orchestration_clock.py", folder.with_suffix(".json")
    command = [sys.executable, str(script), str(clock), *words]
    if name == "library":
        command = [sys.executable, str(HERE / "orchestration_library.py"), *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "PREFECT_HOME": str(home), "PYTHONPATH": str(HERE.parent)}
    with there(folder, home, name) as of_server, folder.with_suffix(".log").open("wb") as log:
        load, cpu = os.getloadavg()[0], _cpu_of_children()
        before, began = of_server(), time.monotonic()
        done = subprocess.run(command, cwd=HERE.parent, env=environment, stdout=log, stderr=log, check=False)
        ended, cpu = time.monotonic(), _cpu_of_children() - cpu
        cpu += of_server() - before
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{folder.with_suffix('.log').read_text()[-4000:]}")
    taken = {"wall_s": ended - began, "cpu_s": cpu, "load": load}
    return taken if name == "library" else taken | parts(files.read_json(clock)["bodies"], began, ended)


def parts(bodies: list[Row], began: float, ended: float) -> Row:
    """Where the time of a command went: its steps' bodies, less their calls to Prefect, and all that is beside them.

    What the steps that work beside the training take when it is over counts as overhead.
    """
    own = sorted((body for body in bodies if not body["beside"]), key=lambda body: float(body["began"]))
    within = sum(body["prefect_s"] for body in own)
    steps = sum(body["ended"] - body["began"] for body in own) - within
    before, after = own[0]["began"] - began, ended - own[-1]["ended"]
    overhead = ended - began - steps
    between = overhead - within - before - after
    return {
        "steps_s": steps,
        "overhead_s": overhead,
        "before_s": before,
        "between_s": between,
        "within_s": within,
        "after_s": after,
    }


@contextmanager
def there(folder: Path, home: Path, name: str) -> Iterator[Callable[[], float]]:
    """A server that was there before, where the row is beside one; yields what tells its CPU-seconds."""
    if name != "running_server":
        yield lambda: 0.0
        return
    os.environ["PREFECT_HOME"] = str(home)
    with server.running(folder):
        process = psutil.Process(files.read_json(folder / ".locks" / ".server")["pid"])
        yield lambda: sum(process.cpu_times()[:2])


def medians(taken: list[Row]) -> Row:
    """The median of each value, and the overhead of every run."""
    found = {key: statistics.median(one[key] for one in taken) if key in taken[0] else None for key in COLUMNS}
    return {
        **found,
        "runs": len(taken),
        "overheads_s": [round(one["overhead_s"], 2) for one in taken if "overhead_s" in one],
    }


def values_of(rows: list[Row]) -> dict[str, float | None]:
    """The goals' values; None for what was not measured."""
    overheads = {row["contender"]: row["overhead_s"] for row in rows}
    return {f"overhead_{name}_s": overheads.get(name) for name in ("own_server", "running_server")}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(result: Row) -> str:
    """All of it as text."""
    first = f"On {result['device']}; the demo, float32, loss on the assistant's tokens. Medians."
    return results.text(result, NAMES, COLUMNS, first)


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each row but the first start")
    parser.add_argument("--steps", type=int, help="train so many steps; without it, the whole demo")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="these rows alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-orchestration-") as folder:
        result = measure_all(Path(folder), given.runs, given.steps, given.only)
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
