"""The model as others get it: its card, its files listed by hash, and the proof that it loads and answers the same.

On another device than the training's, sums round otherwise and answers differ: there it has to load and answer at all,
and the record says that the answers were not compared.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc

    gc.disable()  # what is imported now is no garbage; `processes.child` puts it on again

import datetime
import os
import sys
from pathlib import Path
from typing import Any

from smollm3_ft import card, devices, files, fit, processes, runs
from smollm3_ft.errors import PublishError
from smollm3_ft.fit import TrainingPlan

PUBLISHED = "published.json"
REPORTED = ("target", "repo", "commit", "verified", "answers_compared")  # of the record, in a report


def publish_local(plan: TrainingPlan) -> dict[str, Any]:
    """Complete the model's folder with its card, and record every file of it. Returns the record."""
    folder = Path(plan.folder)
    files.write(folder / "model" / card.FILE, card.render(plan))
    listed = {path.name: files.sha256(path) for path in sorted((folder / "model").iterdir()) if path.is_file()}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"target": "local", "repo": None, "commit": None, "verified": False, "time": now, "files": listed}
    record["answers_compared"] = False
    files.write_json(folder / PUBLISHED, record)
    return record


def altered(folder: Path, record: dict[str, Any]) -> list[str]:
    """Files of a run's model that are not as they were published, compared by hash."""
    listed = {folder / "model" / name: digest for name, digest in record["files"].items()}
    return [str(path) for path, digest in listed.items() if not path.is_file() or files.sha256(path) != digest]


def published(folder: Path) -> dict[str, Any] | None:
    """The record of what a run published, if every file of it is still there as it was."""
    try:
        record = files.read_json(folder / PUBLISHED)
        return record if not altered(folder, record) else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # nothing was, or the record is damaged: it is published again


def main() -> None:
    """The verifying process, `… PLAN.json SCORES_FOLDER`: load what was published and ask it again."""
    from smollm3_ft import evaluation, shards

    processes.end_with_parent()
    plan = fit.read(Path(sys.argv[1]))
    folder = Path(plan.folder)
    differing = altered(folder, files.read_json(folder / PUBLISHED))
    if differing:
        raise PublishError(f"{differing[0]} is not as it was published", "publish the run again")
    device = plan.device if devices.detect().kind == plan.device else "cpu"
    model, tokenizer = evaluation.load(folder / "model", plan.config.model.dtype, device)
    rows = shards.read(Path(plan.prepared.folder) / "test.arrow").to_pylist()
    before = files.read_json(Path(sys.argv[2]) / "scores.json")["answers"]
    most = max(evaluation.GENERATED, plan.config.evaluate.samples)
    again = evaluation.answer(model, tokenizer, rows, most, first_batch_only=True)
    expected = {answer["row"]: answer["answer"] for answer in before}
    for answer in again if _is_on_its_device(plan) else ():
        if answer["answer"] != expected[answer["row"]]:
            said, before_said = answer["answer"], expected[answer["row"]]
            what = f"the published model answers {said!r} where the trained one said {before_said!r}"
            raise PublishError(what, "publish the run again")


def verified(run: runs.Run, record: dict[str, Any]) -> dict[str, Any]:
    """Mark what was published as verified, and whether its answers were compared on this device."""
    compared = _is_on_its_device(fit.read(run.path / "plan.json"))
    done = {**record, "verified": True, "answers_compared": compared}
    done.pop("schema_version", None)
    files.write_json(run.path / PUBLISHED, done)
    return done


def _is_on_its_device(plan: TrainingPlan) -> bool:
    return devices.detect().name == plan.device_name


if __name__ == "__main__":
    code = processes.child(main)
    sys.stdout.flush()
    os._exit(code)
