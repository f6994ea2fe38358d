"""Folders of runs that nobody trained, with journals and results as a training leaves them."""

from pathlib import Path

from conftest import configure

from smollm3_ft import files, runs
from smollm3_ft.journal import Journal
from smollm3_ft.runs import Run

CANARY = "the canary sings of a row"


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def begun(runs_dir: Path, name: str, steps: int = 40, **given: object) -> Run:
    """A run that is being trained: its journals hold `steps` steps, a validation each ten, and samples beside them."""
    run = runs.begin(configure(name=name, runs_dir=str(runs_dir), **given))
    with (
        Journal(run.path / "metrics.jsonl", run.run_id) as metrics,
        Journal(run.path / "host.jsonl", run.run_id) as host,
    ):
        metrics.write("event", {"what": "started"}, 0)
        for step in range(1, steps + 1):
            metrics.write("train", {"loss": 8 / step, "learning_rate": 1e-3 * step, "tokens": 100 * step}, step)
            if step % 10 == 0:
                metrics.write("eval", {"loss": 9 / step}, step)
                host.write("system", {"cpu_percent": 50.0, "memory_bytes": 10**9})
        metrics.write("alert", {"what": "loss is nan", "value": float("nan")}, steps)
    return run


def ended(
    runs_dir: Path, name: str, steps: int = 40, tuned: float = 1.0, status: str = "completed", **given: object
) -> Run:
    """A run that is done, with its results and samples of its answers."""
    run = begun(runs_dir, name, steps, **given)
    sources = [
        {
            "source": "/home/somebody/rows.jsonl",
            "format": "messages",
            "rows": 100,
            "kept": 98,
            "dropped": {"duplicate": 2},
        }
    ]
    ledger = {
        "sources": sources,
        "splits": {"train": 90, "validation": 4, "test": 4},
        "tokens": 9000,
        "supervised_tokens": 900,
    }
    files.write_json(run.path / "data" / "ledger.json", ledger)
    values = {
        "steps": steps,
        "epochs": 1.0,
        "tokens": 100 * steps,
        "supervised_tokens": 10 * steps,
        "final_loss": 8 / steps,
    }
    files.write_json(run.path / "training.json", {"values": values})
    sides = {
        "base": {"loss": interval(7.0)},
        "tuned": {"loss": interval(tuned)},
        "difference": {"loss": interval(7.0 - tuned)},
    }
    sample = {"prompt": CANARY, "reference": CANARY, "base": CANARY, "tuned": CANARY}
    evaluation = {**sides, "rows": 4, "gate": {"state": "none", "metric": None}, "samples": [sample]}
    files.write_json(run.path / "evaluation.json", evaluation)
    files.write_json(
        run.path / "published.json", {"target": "local", "repo": None, "commit": None, "verified": True, "files": {}}
    )
    failure = {"step": "train", "cause": CANARY, "remedy": ""} if status == "failed" else None
    report = {
        "status": status,
        "name": name,
        "failure": failure,
        "actual": {"seconds": {"predicted": 70.0, "actual": 65.0}},
    }
    files.write_json(run.path / "report.json", report)
    return run
