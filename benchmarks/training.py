"""Training on the CPU: this project beside TRL and a fixed-width script, on the same model and conversations.

python benchmarks/training.py [--json] [--steps N]
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import results
import training_rows
from results import Row

SCRIPT = Path(__file__).parent / "training_contenders.py"
ROWS_A_STEP = 8  # of the contenders that pad
SKIPPED = 2  # steps, while everything warms up
NAMES = {
    "fixed_width": "fixed width, the older launcher",
    "fixed_width_plain": "fixed width, transformers' trainer",
    "trl_defaults": "TRL, defaults",
    "trl_dynamic": "TRL, assistant-only loss",
    "trl_packing": "TRL, packing",
    "trl_packing_kept": "TRL, packing, activations kept",
    "ours_all": "this project, loss on all tokens",
    "ours": "this project",
    "ours_bf16": "this project, bf16",
}
LEVERS = {  # a contender without one of them, and the one with all
    "all_square": ("attention per document, not one masked square", "ours_all"),
    "all_entropy": ("no entropy of all logits in each step", "ours_all"),
    "all_gradient": ("the loss makes its gradient, in pieces", "ours_all"),
    "all_small_pages": ("large pages of memory", "ours_all"),
    "every_position": ("logits at trained positions alone", "ours"),
}
LABELS = {
    "all_square": "… with one masked square",
    "all_entropy": "… with the entropy of all logits",
    "all_gradient": "… with torch's cross-entropy",
    "all_small_pages": "… with small pages",
    "every_position": "… with logits everywhere",
}
ALL = ("fixed_width", "fixed_width_plain", "trl_defaults")  # a loss on all tokens; and those with "all" in their name
GOALS = {
    "vs_fixed_width": (">=", 7),
    "vs_trl_defaults": (">=", 3.5),
    "vs_trl_packing": (">=", 2.3),
    "loss_difference": ("<=", 1e-4),
    "journal_share": ("<=", 0.01),
}
COLUMNS = {
    "mask": "mask",
    "precision": "precision",
    "gradient_checkpointing": "grad. ckpt.",
    "tokens_per_cpu_s": "tokens/CPU-s",
    "supervised_per_cpu_s": "trained/CPU-s",
    "steps": "steps",
    "cpu_s_a_step": "CPU-s/step",
    "padding_share": "padding",
    "truncated_tokens": "truncated",
    "to_first_step_s": "first step s",
    "to_first_step_cpu_s": "first step CPU-s",
    "peak_memory_mib": "peak MiB",
}


def run(name: str, folder: Path) -> Row:
    """One contender in a fresh process."""
    words = [name, str(folder / "model"), str(folder / "rows.jsonl"), str(folder / name)]
    found = measure.in_fresh_process(SCRIPT, words, folder / f"{name}.json")
    seconds = sum(step["cpu_s"] for step in found["steps"])
    print(f"{name}: {len(found['steps'])} steps, {seconds:.1f} CPU-s", file=sys.stderr, flush=True)
    return found


def described(name: str, found: Row, tokens: int) -> Row:
    """A row of the table. `tokens` are those of the conversations with nothing cut off."""
    every, steady = found["steps"], found["steps"][SKIPPED:]
    seconds, places = _sum(steady, "cpu_s"), _sum(every, "places")
    kept = ("precision", "gradient_checkpointing", "threads", "peak_memory_mib")
    return {
        "contender": name,
        "mask": "all" if name in ALL or "all" in name.split("_") else "assistant",
        **{key: found[key] for key in kept},
        "steps": len(steady),
        "cpu_s": seconds,
        "cpu_s_a_step": seconds / len(steady),
        "tokens_per_cpu_s": _sum(steady, "tokens") / seconds,
        "supervised_per_cpu_s": _sum(steady, "supervised_tokens") / seconds,
        "padding_share": 1 - _sum(every, "tokens") / places,
        "truncated_tokens": tokens - int(_sum(every, "tokens")),
        "to_first_step_s": found["to_first_step_s"],
        "to_first_step_cpu_s": found["to_first_step_cpu_s"],
    }


def _sum(steps: list[Row], key: str) -> float:
    return sum(float(step[key]) for step in steps)


def ratio(rows: list[Row], ours: str, other: str) -> float:
    """Tokens a CPU-second of one row to those of another of equal precision and mask."""
    mine, theirs = (next(row for row in rows if row["contender"] == name) for name in (ours, other))
    alike = ("precision", "mask", "device", "threads")
    assert [mine[key] for key in alike] == [theirs[key] for key in alike], (mine, theirs)
    return float(mine["tokens_per_cpu_s"] / theirs["tokens_per_cpu_s"])


def compared(ours: Row, same: Row) -> Row:
    """The losses of this project and of TRL at each step on the same batches."""
    pairs = list(zip(ours["steps"], same["steps"], strict=True))
    assert all(mine[key] == theirs[key] for mine, theirs in pairs for key in ("tokens", "supervised_tokens"))
    losses = [(mine["loss"], theirs["loss"]) for mine, theirs in pairs]
    largest = max(abs(mine - theirs) for mine, theirs in losses)
    return {"steps": len(losses), "first": losses[0][0], "last": losses[-1][0], "largest_difference": largest}


def measure_all(steps: int, folder: Path) -> Row:
    """Every row, the ratios, and the comparison of losses."""
    training_rows.write_model(folder / "model")
    training_rows.write_rows(folder / "rows.jsonl", steps * ROWS_A_STEP)
    tokens = sum(training_rows.lengths(folder / "model", folder / "rows.jsonl"))
    found = {name: run(name, folder) for name in (*NAMES, *LEVERS, "same_batches")}
    told: dict[str, Any] = {"device": measure.processor(), "versions": measure.versions()}
    rows = [{**told, **described(name, found[name], tokens)} for name in (*NAMES, *LEVERS)]
    losses = compared(found["ours"], found["same_batches"])
    values = {
        "vs_fixed_width": ratio(rows, "ours_all", "fixed_width"),
        "vs_trl_defaults": ratio(rows, "ours_all", "trl_defaults"),
        "vs_trl_packing": ratio(rows, "ours", "trl_packing"),
        "loss_difference": losses["largest_difference"],
        "journal_share": found["ours"]["journal_s"] / _sum(found["ours"]["steps"], "wall_s"),
    }
    beside = {
        "vs_fixed_width_plain": round(ratio(rows, "ours_all", "fixed_width_plain"), 4),
        "vs_trl_packing_kept": round(ratio(rows, "ours", "trl_packing_kept"), 4),
    }
    levers = {name: round(ratio(rows, full, name), 4) for name, (_, full) in LEVERS.items()}
    judged = results.judged(values, GOALS)
    told |= {"rows": rows, "losses": losses, "levers": levers, "beside": beside}
    return {"schema_version": 1, **told, "goals": judged}


def table(result: Row) -> str:
    """All of it as text."""
    losses = result["losses"]
    told = f"Losses of {losses['steps']} steps on the same batches, this project's from {losses['first']:.4f}"
    told += f" to {losses['last']:.4f}; the largest difference to TRL's packing: {losses['largest_difference']:.2g}."
    return "\n".join(
        [
            f"On {result['device']}, each contender on one of them.",
            results.versions(result["versions"]),
            "Ratios compare tokens a CPU-second of rows of equal mask in float32.",
            "",
            *results.rows(result["rows"], NAMES | LABELS, COLUMNS),
            "",
            "What each lever alone is worth, all else as it is:",
            *(f"{what:46} x {result['levers'][name]:.2f}" for name, (what, _) in LEVERS.items()),
            "",
            told,
            *(f"{name}: {value}" for name, value in result["beside"].items()),
            "",
            *results.goals(result["goals"]),
        ]
    )


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--steps", type=int, default=12, metavar="N", help=f"of {ROWS_A_STEP} rows (12)")
    given = parser.parse_args()
    if given.steps < 5:
        parser.error(f"--steps: fewer than 5 leave nothing after the first {SKIPPED} of packed ones")
    with tempfile.TemporaryDirectory(prefix="benchmark-training-") as folder:
        result = measure_all(given.steps, Path(folder))
    print(json.dumps(result, indent=2) if given.json else table(result))


if __name__ == "__main__":
    main()
