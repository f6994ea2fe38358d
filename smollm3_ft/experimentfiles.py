"""The experiment dataset's files: what they are called, what is in them, and how they are read again.

Each run has a folder of its own, so that no two runs ever write the same file; the card's patterns make one dataset of
all of them. A run's files depend on the run alone: made again, they are the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from smollm3_ft import experiments, pages
from smollm3_ft.experiments import Experiment, Value

TAG = "smollm3-ft-experiments"  # in the card: the repository is ours
FOLDER, SUMMARY, METRICS, SYSTEM, CONFIG = "runs", "summary.parquet", "metrics.parquet", "system.parquet", "config.json"
PATTERNS = {name: f"{FOLDER}/*/{file}" for name, file in (("runs", SUMMARY), ("metrics", METRICS), ("system", SYSTEM))}
AS_JSON = ("config", "settled", "made_of", "ledger", "train", "evaluation", "published")
RUNS = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "run_id", "created", "status", "recipe", "method", "adapter")),
        *((name, pa.string()) for name in ("model", "model_revision", "data_fingerprint", "code", "lock")),
        ("sources", pa.list_(pa.string())),
        *((name, pa.int64()) for name in ("rows_kept", "steps", "tokens", "supervised_tokens")),
        *((name, pa.float64()) for name in ("epochs", "seconds", "tokens_per_second", "final_loss")),
        *((name, pa.float64()) for name in ("base_loss", "tuned_loss", "base_exact_match", "tuned_exact_match")),
        *((name, pa.string()) for name in ("gate", "published_to")),
        ("verified", pa.bool_()),
        *((name, pa.string()) for name in AS_JSON),
    ]
)
VALUES = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "run_id", "id", "journal")),
        ("time", pa.timestamp("us", tz="UTC")),
        ("step", pa.int64()),
        *((name, pa.string()) for name in ("kind", "name")),
        ("number", pa.float64()),
        ("text", pa.string()),
    ]
)


def label(experiment: Experiment) -> str:
    """A run's folder in the dataset: its name, and enough of its id to tell it from another of that name."""
    return f"{experiment.name}-{experiment.run_id[:8]}"


def card(repo: str) -> str:
    """The dataset's README."""
    template = pages.templates(escaped=False).get_template("experiments.md")
    return template.render(tag=TAG, repo=repo, patterns=PATTERNS)


def is_card_of_ours(text: str) -> bool:
    """Whether a README was written by `card`, whatever was added to it since."""
    if not text.startswith("---\n"):
        return False
    try:
        head = yaml.safe_load(text.split("---\n")[1])
    except yaml.YAMLError:
        return False
    return isinstance(head, dict) and TAG in (head.get("tags") or [])


def made(experiment: Experiment, values: Iterable[Value]) -> dict[str, bytes]:
    """A run's files, by their path in the dataset."""
    found = list(values)
    folder = f"{FOLDER}/{label(experiment)}"
    told = {"schema_version": 1, "run_id": experiment.run_id, "config": experiment.config}
    return {
        f"{folder}/{SUMMARY}": _parquet([_row(experiment)], RUNS),
        f"{folder}/{METRICS}": _parquet(_values(experiment, (v for v in found if v.kind != "system")), VALUES),
        f"{folder}/{SYSTEM}": _parquet(_values(experiment, (v for v in found if v.kind == "system")), VALUES),
        f"{folder}/{CONFIG}": (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode(),
    }


def read(folder: Path) -> list[Experiment]:
    """Every run of a dataset that was fetched into `folder`, the newest first."""
    found = []
    for path in (folder / FOLDER).glob(f"*/{SUMMARY}"):
        (row,) = pq.read_table(path).to_pylist()
        parts = {name: json.loads(row[name]) for name in AS_JSON}
        plain = {name: row[name] for name in ("name", "run_id", "created", "status")}
        found.append(Experiment(**plain, **parts))
    return sorted(found, key=lambda one: one.created, reverse=True)


def curves(folder: Path, experiment: Experiment) -> experiments.Curves:
    """The curves of a run of a dataset that was fetched into `folder`."""
    table = pq.read_table(folder / FOLDER / label(experiment) / METRICS)
    rows = table.drop_columns(["run", "run_id", "time"]).to_pylist()
    return experiments.curves(Value(time=0.0, **row) for row in rows)


def _row(one: Experiment) -> dict[str, Any]:
    measured = one.evaluation
    sources = one.ledger.get("sources", [])
    return {
        **{name: getattr(one, name) for name in ("name", "run_id", "created", "status")},
        **{name: one.made_of.get(name) for name in ("code", "lock")},
        **{name: one.train.get(name) for name in RUNS.names if name in one.train},
        **{name: json.dumps(getattr(one, name), ensure_ascii=False) for name in AS_JSON},
        **{f"{side}_{name}": _measured(measured, side, name) for side in ("base", "tuned") for name in _SHOWN},
        "recipe": one.config.get("recipe"),
        "method": one.config.get("train.method"),
        "adapter": one.config.get("train.adapter"),
        "model": one.config.get("model.name"),
        "model_revision": one.made_of.get("model"),
        "data_fingerprint": one.made_of.get("data"),
        "sources": [source["source"] for source in sources],
        "rows_kept": sum(source["kept"] for source in sources) if sources else None,
        "gate": measured.get("gate", {}).get("state"),
        "published_to": one.published.get("repo") or one.published.get("target"),
        "verified": one.published.get("verified"),
    }


_SHOWN = ("loss", "exact_match")


def _measured(evaluation: dict[str, Any], side: str, name: str) -> float | None:
    value = evaluation.get(side, {}).get(name, {}).get("value")
    return None if value is None else float(value)


def _values(experiment: Experiment, values: Iterable[Value]) -> list[dict[str, Any]]:
    run = {"run": experiment.name, "run_id": experiment.run_id}
    return [{**run, **value._asdict(), "time": round(value.time * 1e6)} for value in values]


def _parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), target, compression="zstd")
    return target.getvalue()
