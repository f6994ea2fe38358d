"""The model as others get it, in its folder or on the Hub: files listed by hash, and the proof that it answers alike.

What is on the Hub is fetched from there and asked fixed prompts beside the model on disk: the same tokens must come.
The answers of the evaluation are compared too, but not on another device than the training's: there sums round
otherwise, and the record says that they were not.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc

    gc.disable()  # what is imported now is no garbage; `processes.child` puts it on again

import datetime
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smollm3_ft import devices, disk, files, fit, hubclient, hubpush, modelfolder, permission, processes, runs
from smollm3_ft.config import Publish
from smollm3_ft.errors import PublishError
from smollm3_ft.fit import TrainingPlan

PUBLISHED = "published.json"
VERIFYING = ".verifying"  # in a run's folder, while what is on the Hub is compared
REPORTED = ("target", "repo", "commit", "tag", "verified", "answers_compared", "despite_gate")  # in a report
CONTENT = ("adapter", "quantize", "samples")  # keys of `publish` that say what is in the folder
PROMPTS = ("What is the capital of France?", "Write one sentence about the sea.", "2 + 2 =", "Hello!")
NEW_TOKENS = 32


def publish(run: runs.Run, plan: TrainingPlan, despite_gate: str | None = None) -> dict[str, Any]:
    """Complete the model's folder, bring it to where `publish` of the run says, and record every file of it.

    Returns the record. With a reason in `despite_gate` a model that the gate is against goes there too, and its card
    and record say so. Raises what `hubpush.push` raises.
    """
    publish = run.config.publish
    if publish.target == "hub":
        publish = publish.model_copy(update={"repo": permission.repository(publish, run.name, hubpush.PATIENCE)})
    config = plan.config.model_copy(update={"publish": publish, "monitor": run.config.monitor})
    repo = publish.repo if publish.target == "hub" else None
    folder = modelfolder.complete(plan.model_copy(update={"config": config}), repo, despite_gate)
    pushed: dict[str, Any] = {"repo": None, "commit": None, "tag": None, "files": hubpush.listed(folder)}
    if publish.target == "hub":
        message = f"{run.name}: {plan.config.train.method} of {Path(plan.model.name).name}"
        pushed = hubpush.push(folder, str(repo), publish.private, run.name, run.run_id, message)
    record = {
        "target": publish.target,
        "verified": False,
        "answers_compared": False,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "folder": str(folder.relative_to(run.path)),
        "publish": publish.model_dump(mode="json"),
        "despite_gate": despite_gate,
        **pushed,
    }
    files.write_json(run.path / PUBLISHED, record)
    return record


def goes_to_the_hub(run: runs.Run) -> bool:
    """Whether a run still has something to bring to the Hub: neither is it there, nor has a gate stopped it."""
    if run.config.publish.target != "hub" or runs.status(run.path) == "blocked":
        return False
    record = files.read_json_if_there(run.path / PUBLISHED)
    return not (record and is_as_asked(record, run) and is_finished(record, run))


def is_finished(record: dict[str, Any], run: runs.Run) -> bool:
    """Whether what was published is verified, and its demo Space tried where one is asked for."""
    space, asked = record.get("demo_space", {}), run.config.publish.demo_space
    has_space = asked is None or (space.get("tried", False) and f"/{space['space']}".endswith(f"/{asked}"))
    return bool(record.get("verified") and has_space)


def states(record: dict[str, Any], reason: str | None) -> bool:
    """Whether what was published says why it was although its gate was against it, where a reason is given."""
    return reason is None or record.get("despite_gate") == reason


def altered(folder: Path, record: dict[str, Any]) -> list[str]:
    """Files of a run's model that are not as they were published, compared by hash."""
    model = folder / record.get("folder", "model")
    listed = {model / name: digest for name, digest in record["files"].items()}
    return [str(path) for path, digest in listed.items() if not path.is_file() or files.sha256(path) != digest]


def published(run: runs.Run) -> dict[str, Any] | None:
    """The record of what a run published, if it is what `publish` asks for and every file is still there as it was."""
    try:
        record = files.read_json(run.path / PUBLISHED)
        return record if is_as_asked(record, run) and not altered(run.path, record) else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # nothing was, or the record is damaged: it is published again


def is_as_asked(record: dict[str, Any], run: runs.Run) -> bool:
    """Whether a record is of what `publish` asks for: the same content, there. What is on the Hub is here as well."""
    asked, was = run.config.publish, record.get("publish", {})  # records of a former version say nothing of it
    content = asked.model_dump(mode="json", include=set(CONTENT))
    if any(was.get(key, value) != value for key, value in content.items()):
        return False
    if asked.private and not was.get("private", True):
        return False  # it is public there, which is refused when it is published again
    return asked.target == "local" or (record.get("target") == "hub" and _is_named(record["repo"], asked, run.name))


def still_there(run: runs.Run, record: dict[str, Any]) -> dict[str, Any] | None:
    """A record without what the Hub says is gone: the demo Space, or the model, and then there is nothing of it."""
    if run.config.publish.target != "hub" or record.get("target") != "hub":
        return record
    if hubclient.is_gone(record["repo"], record["commit"]):
        return None
    space = record.get("demo_space")
    is_left = space is None or not hubclient.is_gone(space["space"], kind="space")
    return record if is_left else {key: value for key, value in record.items() if key != "demo_space"}


def _is_named(repo: str, asked: Publish, name: str) -> bool:
    wanted = asked.repo or name
    return repo == wanted or ("/" not in wanted and repo.partition("/")[2] == wanted)


@contextmanager
def fetched(run: runs.Run, record: dict[str, Any]) -> Iterator[Path]:
    """The published folder: on the Hub it is fetched from there and compared by hash, and removed afterwards."""
    folder, into = run.path / record["folder"], run.path / VERIFYING
    if record["target"] != "hub":
        yield folder
        return
    shutil.rmtree(into, ignore_errors=True)  # of a process that was killed
    disk.check_room(run.path, sum((folder / name).stat().st_size for name in record["files"]))
    try:
        yield hubpush.verify(record, into)
    finally:
        shutil.rmtree(into, ignore_errors=True)


def main() -> None:
    """The verifying process, `… PLAN.json SCORES_FOLDER MODEL_FOLDER`: load what was published and ask it."""
    from smollm3_ft import evaluation, shards

    processes.end_with_parent()
    plan, there = fit.read(Path(sys.argv[1])), Path(sys.argv[3])
    folder = Path(plan.folder)
    record = files.read_json(folder / PUBLISHED)
    differing = altered(folder, record)
    if differing:
        raise PublishError(f"{differing[0]} is not as it was published", "publish the run again")
    device = plan.device if devices.detect().kind == plan.device else "cpu"
    here = folder / record["folder"]
    base = Path(plan.weights) if modelfolder.is_adapter(here) else None
    how = (plan.config.model.dtype, device, base, plan.model.code)
    said = _says(*evaluation.load(here, *how)) if here != there else None
    model, tokenizer = evaluation.load(there, *how)
    if said is not None and _says(model, tokenizer) != said:
        raise PublishError("the model on the Hub says something else than the one on disk", "publish the run again")
    rows = shards.read(Path(plan.prepared.folder) / "test.arrow").to_pylist()
    before = files.read_json(Path(sys.argv[2]) / "scores.json")["answers"]
    most = max(evaluation.GENERATED, plan.config.evaluate.samples)
    again = evaluation.answer(model, tokenizer, rows, most, first_batch_only=True)
    expected = {answer["row"]: answer["answer"] for answer in before}
    for answer in again if _is_on_its_device(plan) else ():
        if answer["answer"] != expected[answer["row"]]:
            # Without the texts: they may be a row's, and an error is kept by Prefect.
            what = f"the published model answers held-out row {answer['row']} otherwise than the trained one did"
            raise PublishError(what, "publish the run again")


def _says(model: Any, tokenizer: Any) -> list[list[int]]:
    """The tokens with which a model answers the fixed prompts."""
    from smollm3_ft import evaluation

    turns = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    return evaluation.generate(model, tokenizer, ids, NEW_TOKENS)


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
