"""Training SmolLM3-3B, with random weights at its real size, on one GPU: this project beside TRL.

python benchmarks/gpu.py [--json] [--steps N] [--only NAME ...]

Without a GPU the same code runs at small sizes, and no goal is judged.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import gpu_contenders
import measure
import results
import training_rows
from results import Row

from smollm3_ft import devices

SCRIPT = Path(gpu_contenders.__file__)
SKIPPED = 2  # steps, while everything warms up
TRL_PACKED = ("trl_packed", "trl_packed_kept")
SAID = {
    "ours_packed": "this project, packed",
    "ours_unpacked": "this project, unpacked",
    "trl_defaults": "TRL, defaults",
    "trl_packed": "TRL, packed, checkpointing",
    "trl_packed_kept": "TRL, packed, activations kept",
    "trl_unpacked": "TRL, unpacked",
}
NAMES = {f"{mode}_{name}": f"{mode}: {said}" for mode in ("full", "lora") for name, said in SAID.items()}
GOALS = {
    "mfu_full": (">=", 0.50),
    "tokens_per_second_lora": (">=", 30_000),
    "vs_trl_best": (">=", 1.3),
    "memory_error": ("<=", 0.10),
    "time_error": ("<=", 0.15),
}
COLUMNS = {
    "max_length": "length",
    "precision": "precision",
    "mask": "mask",
    "attention": "attention",
    "batch": "batch",
    "gradient_checkpointing": "ckpt. every",
    "tokens_per_second": "tokens/s",
    "mfu": "MFU",
    "step_s": "s/step",
    "predicted_step_s": "predicted",
    "estimated_step_s": "estimated",
    "memory_gib": "peak GiB",
    "predicted_gib": "predicted",
    "estimated_gib": "estimated",
    "outcome": "outcome",
}


def run(name: str, steps: int, folder: Path) -> Row:
    """One contender in a fresh process. One that fails loses the others nothing."""
    words = [name, str(steps), str(folder / "model"), str(folder / "rows.jsonl"), str(folder / name)]
    try:
        return measure.in_fresh_process(SCRIPT, words, folder / f"{name}.json")
    except RuntimeError as error:
        print(error, file=sys.stderr, flush=True)
        return {"outcome": "failed", "peak_memory_mib": None}


def described(name: str, found: Row, peak: float | None) -> Row:
    """A row of the table; what was not measured is None."""
    row: Row = {"contender": name, **dict.fromkeys(COLUMNS), "host_memory_mib": found["peak_memory_mib"]}
    row |= {key: value for key, value in found.items() if key in COLUMNS}
    row["mask"] = "all"
    if found["outcome"] != gpu_contenders.MEASURED:
        return row
    steady = found["steps"][SKIPPED:]
    seconds, step = sum(one["wall_s"] for one in steady), median(one["wall_s"] for one in steady)
    row |= {
        "steps": len(steady),
        "step_s": step,
        "tokens_per_second": sum(one["tokens"] for one in steady) / seconds,
        "mfu": None if peak is None else sum(one["flops"] for one in steady) / seconds / peak,
        "memory_gib": found["memory_bytes"] / 2**30,
    }
    return row


def values_of(rows: list[Row]) -> dict[str, float | None]:
    """The value of every goal; None where a row of it is missing, or ran out of memory."""
    of = {row["contender"]: row for row in rows if row["outcome"] == gpu_contenders.MEASURED}
    ours = [row for row in of.values() if row["predicted_gib"] is not None]
    ratios = [_ratio(of, mode) for mode in ("full", "lora")]
    return {
        "mfu_full": of.get("full_ours_packed", {}).get("mfu"),
        "tokens_per_second_lora": of.get("lora_ours_packed", {}).get("tokens_per_second"),
        "vs_trl_best": None if None in ratios else min(ratio for ratio in ratios if ratio is not None),
        "memory_error": _largest(ours, "predicted_gib", "memory_gib"),
        "time_error": _largest(ours, "predicted_step_s", "step_s"),
    }


def _ratio(of: dict[str, Row], mode: str) -> float | None:
    """Tokens a second, packed, to the better of TRL's two settings."""
    mine = of.get(f"{mode}_ours_packed")
    theirs = [of[f"{mode}_{name}"] for name in TRL_PACKED if f"{mode}_{name}" in of]
    if mine is None or not theirs:
        return None
    best = max(theirs, key=lambda row: float(row["tokens_per_second"]))
    alike = ("precision", "mask", "max_length", "device")
    assert [mine[key] for key in alike] == [best[key] for key in alike], (mine, best)
    return float(mine["tokens_per_second"] / best["tokens_per_second"])


def _largest(rows: list[Row], predicted: str, measured: str) -> float | None:
    return max((abs(row[predicted] / row[measured] - 1) for row in rows), default=None)


def measure_all(names: list[str], steps: int, folder: Path) -> Row:
    """Every row and every goal."""
    device = devices.detect()
    on_gpu, sizes = device.kind == "cuda", gpu_contenders.sizes()
    told: dict[str, Any] = {
        "device": device.name if on_gpu else f"no CUDA device, sizes reduced: {measure.processor()}",
        "versions": {**measure.versions(), **gpu_contenders.kernels()},
    }
    training_rows.write_rows(folder / "rows.jsonl", sizes.rows, sizes.median_words)
    measure.in_fresh_process(SCRIPT, ["model", str(folder / "model")], folder / "model.json")
    peak = devices.peak_flops(device.name)
    rows = []
    for name in names:
        rows.append({**told, **described(name, run(name, steps, folder), peak)})
        seen = {key: rows[-1][key] for key in ("tokens_per_second", "mfu", "memory_gib", "outcome")}
        print(f"{NAMES[name]}: {seen}", file=sys.stderr, flush=True)  # what is not lost where time runs out
    values = values_of(rows) if on_gpu else dict.fromkeys(GOALS)
    return {"schema_version": 1, **told, "rows": rows, "goals": results.judged(values, GOALS)}


def table(result: Row) -> str:
    """All of it as text."""
    told = "Tokens a second count no padding. Ratios compare rows of equal precision, mask and length."
    return results.text(result, NAMES, COLUMNS, f"On {result['device']}.", told)


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="optimizer steps of each contender (8)")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    given = parser.parse_args()
    if given.steps <= SKIPPED:
        parser.error(f"--steps: the first {SKIPPED} are not counted")
    # For all of them: batches are of many sizes, and memory in fixed segments is left in pieces that fit none.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with tempfile.TemporaryDirectory(prefix="benchmark-gpu-") as folder:
        result = measure_all(given.only, given.steps, Path(folder))
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
