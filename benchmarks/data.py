"""Preparing data: this project beside plain TRL and a fixed-width script, on the same generated rows.

python benchmarks/data.py [--json] [--rows SMALL LARGE]
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import data_equality
import generated
import measure
import results
from results import Row

SCRIPT = Path(__file__).parent / "data_contenders.py"
NAMES = {
    "ours": "this project",
    "again": "this project, prepared before",
    "trl": "TRL, assistant-only loss",
    "fixed_width": "fixed-width script",
    "limit": "byte-pair encoding alone (fastokens)",
}
MASK = {"ours": "assistant", "again": "assistant", "trl": "assistant", "fixed_width": "none", "limit": "none"}
GOALS = {
    "cpu_speed_vs_trl": (">=", 6),
    "ids_equal": ("=", 1),
    "core_scaling": (">=", 0.8),
    "repeat_speedup": (">=", 50),
    "memory_200k_vs_10k": ("<=", 1.3),
    "packing_fill": (">=", 0.98),
}
COLUMNS = {
    "rows": "rows",
    "cores": "cores",
    "cpu_s": "CPU-s",
    "wall_s": "wall s",
    "rows_per_s": "rows/s",
    "rows_per_cpu_s": "rows/CPU-s",
    "tokens": "tokens",
    "peak_memory_mib": "peak MiB",
    "mask": "mask",
}

TOKENS = 32_000
NARROW = {  # nothing runs it: TRL wants a model
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "no_rope_layers": [1],
    "layer_types": ["full_attention"],
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(name: str, rows: int, cores: int, folder: Path) -> Row:
    """One contender in a fresh process. Its output lies under `out` of the result."""
    place = folder / str(rows)
    out = place / f"{name.replace('again', 'ours')}-{cores}"
    if name != "again":  # which finds what "ours" left there
        shutil.rmtree(out, ignore_errors=True)
    words = [name, str(folder / "model"), *(str(place / f) for f in ("rows.jsonl", "rendered.jsonl")), str(out)]
    found = measure.in_fresh_process(SCRIPT, [*words, str(cores)], place / f"{name}-{cores}.json")
    speeds = {"rows_per_s": rows / found["wall_s"], "rows_per_cpu_s": rows / max(found["cpu_s"], 0.01)}
    say(f"{NAMES[name]}, {rows} rows, {cores} cores: {found['cpu_s']:.2f} CPU-s, {found['wall_s']:.2f} s")
    described = {"contender": name, "rows": rows, "cores": cores, "precision": "tokens only", "mask": MASK[name]}
    return {**described, **found, **speeds, "out": out}


def measure_all(small: int, large: int, folder: Path) -> tuple[list[Row], Row]:
    """Every row of the table, and the comparison of tokens."""
    say("the model and the rows are generated")
    generated.write_model(folder / "model", TOKENS, NARROW)
    for count in (small, large):
        (folder / str(count)).mkdir()
        generated.write_rows(folder / str(count) / "rows.jsonl", folder / str(count) / "rendered.jsonl", count)
    cores = len(os.sched_getaffinity(0))
    rows = [run("trl", small, 1, folder), run("ours", small, 1, folder)]
    trl, ours = rows
    equality = data_equality.compare(
        Path(ours["folder"]), folder / str(small) / "rows.jsonl", folder / "model", trl["out"] / "reference.npz"
    )
    rows += [run("fixed_width", small, 1, folder), run("limit", small, 1, folder), run("ours", small, cores, folder)]
    for row in rows:
        shutil.rmtree(row["out"], ignore_errors=True)
    rows += [run("ours", large, 1, folder)]
    shutil.rmtree(rows[-1]["out"])
    rows += [run("ours", large, cores, folder), run("again", large, cores, folder), run("limit", large, 1, folder)]
    return rows, equality


def goals_of(rows: list[Row], equality: Row, small: int, large: int) -> dict[str, Row]:
    """Every goal with its value and whether it is met."""
    cores = max(row["cores"] for row in rows)
    of = {(row["contender"], row["rows"], row["cores"]): row for row in rows}
    ours, one, first = of["ours", small, cores], of["ours", large, 1], of["ours", large, cores]
    values = {
        "cpu_speed_vs_trl": of["trl", small, 1]["cpu_s"] / of["ours", small, 1]["cpu_s"],
        "ids_equal": int(equality["different"] == 0),
        "core_scaling": one["wall_s"] / first["wall_s"] / cores,
        "repeat_speedup": first["wall_s"] / of["again", large, cores]["wall_s"],
        "memory_200k_vs_10k": first["peak_memory_mib"] / ours["peak_memory_mib"],
        "packing_fill": first["fill"],
    }
    return results.judged(values, GOALS)


def table(result: Row) -> str:
    """All of it as text."""
    compared = ", ".join(f"{count:,} ({way})" for way, count in result["equality"]["compared"].items())
    return "\n".join(
        [
            f"On {result['device']}; all rows: tokens only, no floating point.",
            results.versions(result["versions"]),
            "TRL and the fixed-width script prepare the small set only. Ratios compare rows of equal mask.",
            "",
            *results.rows(result["rows"], NAMES, COLUMNS),
            "",
            f"Tokens and masks compared by row: {compared}; different: {result['equality']['different']:,}",
            "",
            *results.goals(result["goals"]),
        ]
    )


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--rows", nargs=2, type=int, default=(10_000, 200_000), metavar=("SMALL", "LARGE"))
    given = parser.parse_args()
    small, large = given.rows
    if not 0 < small < large:
        parser.error("--rows: SMALL must be less than LARGE")
    with tempfile.TemporaryDirectory(prefix="benchmark-data-") as folder:
        rows, equality = measure_all(small, large, Path(folder))
    device = measure.processor()
    result = {
        "schema_version": 1,
        "device": device,
        "versions": measure.versions("fastokens", "numpy", "pyarrow"),
        "rows": [
            {"device": device, **{k: v for k, v in row.items() if k not in ("out", "folder", "schema_version")}}
            for row in rows
        ],
        "equality": equality,
        "goals": goals_of(rows, equality, small, large),
    }
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
