"""What one run tells beside others: what it was asked, what it was made of, and what came of it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from smollm3_ft import files, fit, journal, locks, publishing, runs
from smollm3_ft.journal import Record
from smollm3_ft.layers import flatten

BESIDE = ("name", "runs_dir")  # keys that say where a run lies, and nothing about it

TEXTS = ("data.system_prompt", "evaluate.prompts")  # keys whose values may be what somebody wrote
NUMBERS = ("base", "tuned", "difference", "rows", "answered", "gate")  # of an evaluation; the rest may hold texts


class Experiment(BaseModel):
    """A run as it is compared. What it has not come to is empty."""

    model_config = ConfigDict(frozen=True)

    name: str
    run_id: str
    created: str
    status: str
    # Dotted keys and values; in `settled`, what became of `auto`.
    config: dict[str, Any]
    settled: dict[str, Any]
    # Digests, revisions, versions, and the device.
    made_of: dict[str, Any]
    ledger: dict[str, Any]
    # As in report.json; `seconds` is how long it trained.
    train: dict[str, Any]
    # Base, tuned and difference of each metric, the rows, and the gate's state; no samples.
    evaluation: dict[str, Any]
    published: dict[str, Any]


class Value(NamedTuple):
    """One value of a journal's record. `number` where it is one, `text` where it is not."""

    id: str
    journal: str
    time: float
    step: int | None
    kind: str
    name: str
    number: float | None
    text: str | None


# For each metric (`train/loss`, `eval/loss`, …) its points (step, value), in order.
Curves = dict[str, list[tuple[float, float]]]


def of_run(folder: Path, has_ended: bool = False) -> Experiment:
    """The run that lies in `folder`, as far as it has come. Raises ConfigError where none does.

    `has_ended` says so of a run whose owner is about to let it go; else that is seen from its lock.
    """
    run = runs.read(folder).model_copy(update={"folder": str(folder)})  # it may have been moved
    plan, report = files.read_json_if_there(folder / "plan.json"), files.read_json_if_there(folder / "report.json")
    evaluation = files.read_json_if_there(folder / "evaluation.json")
    return Experiment(
        name=run.name,
        run_id=run.run_id,
        created=run.created,
        status=runs.status(folder) if has_ended else status(run),
        config=configuration(run),
        settled={f"train.{name}": value for name, value in plan.get("settings", {}).items()},
        made_of=_made_of(run, plan),
        ledger=files.read_json_if_there(folder / "data" / "ledger.json"),
        train=_trained(folder, report),
        evaluation={key: evaluation[key] for key in NUMBERS if key in evaluation},
        published=_published(folder),
    )


def configuration(run: runs.Run) -> dict[str, Any]:
    """What a run was told, by dotted keys, but for where it lies."""
    return {key: value for key, value in flatten(run.config.model_dump(mode="json")) if key not in BESIDE}


def shared(experiment: Experiment, texts: bool) -> Experiment:
    """What others may see of a run: no folder of this machine and, without `texts`, no text of anybody's."""
    config = shared_configuration(experiment.config, texts)
    return experiment.model_copy(update={"config": config, "ledger": without_folders(experiment.ledger)})


def shared_configuration(config: dict[str, Any], texts: bool) -> dict[str, Any]:
    """The same of a configuration alone, by dotted keys."""
    return {key: _told(key, value, texts) for key, value in config.items()}


def _told(key: str, value: Any, texts: bool) -> Any:
    if key not in TEXTS or value in (None, "none"):
        return without_folders(value)
    if not texts:
        return "(not shared)"
    is_a_file = key == "evaluate.prompts" and isinstance(value, str)
    return without_folders(value) if is_a_file else value


def without_folders(value: Any) -> Any:
    """Every path of this machine as its last part."""
    if isinstance(value, dict):
        return {key: without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def status(run: runs.Run) -> str:
    """As in its report; `running` for one that somebody works on."""
    works = locks.is_held_by_the_living(run.path.parent, run.name)
    return "running" if works else runs.status(run.path)


def _made_of(run: runs.Run, plan: dict[str, Any]) -> dict[str, Any]:
    model = run.plan.model if run.plan else None
    found = {
        "code": run.code,
        "lock": run.lock,
        "model": (model.revision or model.digest) if model else None,
        "sources": [source.revision or source.digest for source in run.plan.sources] if run.plan else [],
        "data": plan.get("prepared", {}).get("fingerprint"),
        "device": plan.get("device_name"),
        "versions": plan.get("versions", {}),
    }
    return {name: value for name, value in found.items() if value}


def _trained(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What training came to. Until it is done, the step that the journal has come to."""
    done = files.read_json_if_there(folder / fit.TRAINED).get("values")
    records = [one for one in journal.read(folder / "metrics.jsonl") if one.step is not None]
    found = done or ({"steps": records[-1].step} if records else {})
    reported = ((report.get("actual") or {}).get("seconds") or {}).get("actual")
    seconds = max(reported or 0.0, journal.seconds(records) or 0.0) or None
    return {name: value for name, value in found.items() if name not in ("model", "adapter")} | {"seconds": seconds}


def _published(folder: Path) -> dict[str, Any]:
    record = files.read_json_if_there(folder / publishing.PUBLISHED)
    return {name: record.get(name) for name in ("target", "repo", "commit", "verified")} if record else {}


def values(folder: Path) -> Iterator[Value]:
    """Every value of a run's two journals."""
    for name in ("metrics", "host"):
        yield from of_records(name, journal.read(folder / f"{name}.jsonl"))


def of_records(name: str, records: Iterable[Record]) -> Iterator[Value]:
    for one in records:
        for key, value in one.values.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            number, text = (float(value), None) if is_number else (None, str(value))
            yield Value(one.id, name, one.time, one.step, one.kind, key, number, text)


def curves(found: Iterable[Value]) -> Curves:
    """What training and validation say, by step."""
    drawn: Curves = {}
    for one in found:
        if one.kind in ("train", "eval") and one.number is not None:
            drawn.setdefault(f"{one.kind}/{one.name}", []).append((float(one.step or 0), one.number))
    return drawn


def began(created: str) -> str:
    """A run's beginning as people read it, in this machine's time."""
    return f"{datetime.datetime.fromisoformat(created).astimezone():%Y-%m-%d %H:%M}"
