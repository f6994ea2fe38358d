"""The steps that evaluate: the base model, the tuned one beside it, and its quantized variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from smollm3_ft import (
    comparison,
    files,
    fit,
    gate,
    harness,
    identity,
    locks,
    probes,
    processes,
    records,
    runs,
    variants,
)
from smollm3_ft.config import Variant
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.gate import Other
from smollm3_ft.runs import Run
from tasks.steps import DAYS, call, log, options, task

EVALUATED = ".evaluated"  # below the folder of all runs: scores, by their fingerprint
EVALUATION_CODE = ("attention", "batches", "evaluation", "scoring")


class Evaluated(BaseModel):
    """The scores of one model on the held-out rows."""

    model_config = ConfigDict(frozen=True)

    folder: str
    fingerprint: str
    standard: str | None = None  # the folder of the standard tasks' figures, where any are asked for


@task(**options("evaluate base", timeout=DAYS))
def evaluate_base(plan: TrainingPlan, fingerprint: str, standard: str | None, kept: Evaluated | None) -> Evaluated:
    """Score the model as it was."""
    return kept or _evaluate(plan, "base", fingerprint, standard)


@task(**options("evaluate tuned", timeout=DAYS))
def evaluate_tuned(
    plan: TrainingPlan,
    fingerprint: str,
    standard: str | None,
    base: Evaluated,
    other: Other | None,
    kinds: Sequence[Variant],
    kept: Evaluated | None,
) -> Evaluated:
    """Score the trained model, and on the same rows the run that it must not be worse than, if it is given, and its
    quantized variants, unless the gate is against it."""
    if other is not None:
        _evaluate(plan, str(Path(other.plan.folder) / "model"), _evaluation_mark(plan, other.model))
    tuned = kept or _evaluate(plan, "tuned", fingerprint, standard)
    if kinds and _compared(plan, base, tuned, other)["gate"]["state"] != "failed":
        _quantize(plan, kinds)
    return tuned


def of_base(run: Run, plan: TrainingPlan, done: bool) -> Evaluated:
    """The base model's evaluation; a run that is `done` keeps the one that it has."""
    mark, standard = _marks_of(run, "base", plan, plan.model.digest, done)
    kept = found(run, mark, standard, done)
    base = call(evaluate_base, plan, mark, standard, fingerprint=_both(mark, standard), kept=kept)
    _set_marks(run, "base", base)
    return base


def of_tuned(run: Run, plan: TrainingPlan, model: str, base: Evaluated, done: bool) -> Evaluated:
    """The evaluation of the tuned model, whose weights have the digest `model`, and `evaluation.json`."""
    mark, standard = _marks_of(run, "tuned", plan, model, done)
    judged = done and (run.path / "evaluation.json").is_file()
    other = None if judged else gate.other(run.config, Path(plan.weights))
    kinds = () if judged or run.config.publish.target == "none" else run.config.publish.quantize or ()
    kept = found(run, mark, standard, done)
    if other is not None and found(run, _evaluation_mark(plan, other.model), None, done=False) is None:
        kept = None
    if not all(_scores_of(plan, kind) for kind in kinds):
        kept = None
    tuned = call(evaluate_tuned, plan, mark, standard, base, other, kinds, fingerprint=_both(mark, standard), kept=kept)
    if not judged:
        compared = _compared(plan, base, tuned, other)
        quantized = _quantized(plan, tuned, kinds)
        files.write_json(run.path / "evaluation.json", compared | ({"quantized": quantized} if quantized else {}))
    _set_marks(run, "tuned", tuned)
    return tuned


def _compared(plan: TrainingPlan, base: Evaluated, tuned: Evaluated, other: Other | None) -> dict[str, Any]:
    """Base beside tuned, and the gate's verdict."""
    before, after = (comparison.read_scores(Path(one.folder)) for one in (base, tuned))
    config, seed, beta = plan.config, plan.config.seed, plan.config.train.beta
    origins = files.read_json_if_there(Path(plan.prepared.folder) / "origins.json")
    compared = comparison.compare(before, after, config.evaluate.samples, seed, beta, origins)
    than = None
    if other is not None:
        place = Path(config.runs_dir) / EVALUATED / _evaluation_mark(plan, other.model)
        than = other.name, comparison.read_scores(place)
    verdict = gate.judge(config.evaluate.gate, compared, after, than, seed, beta)
    sides = {"base": base.standard, "tuned": tuned.standard}
    standard = {side: harness.read(Path(folder)) for side, folder in sides.items() if folder}
    return {**compared, **({"harness": standard} if standard else {}), "gate": verdict}


def complete_variants(run: Run, plan: TrainingPlan) -> None:
    """Bring the variants in the model's folder, and what `evaluation.json` says of them, to what `publish` asks for.

    One that lies there as it was made stands, and so do its figures, whatever the code is now; one that is new is
    compared with what the code of now says of the tuned model too.
    """
    kinds = run.config.publish.quantize or ()
    variants.remove_others(plan, kinds)
    before = files.read_json(run.path / "evaluation.json")
    told = {kind: one for kind, one in before.get("quantized", {}).items() if variants.is_as_made(plan, kind)}
    if new := [kind for kind in kinds if kind not in told]:
        _quantize(plan, new)
        model = files.read_json(run.path / fit.TRAINED)["values"]["model"]
        told |= _quantized(plan, _evaluate(plan, "tuned", _evaluation_mark(plan, model)), new)
    quantized = {"quantized": {kind: told[kind] for kind in kinds}} if kinds else {}
    after = {key: value for key, value in before.items() if key != "quantized"} | quantized
    if after != before:
        files.write_json(run.path / "evaluation.json", after)


def _quantize(plan: TrainingPlan, kinds: Sequence[Variant]) -> None:
    """Make the variants that are not there, and score each as it lies on the disk."""
    for kind in kinds:
        if _scores_of(plan, kind) is None:
            mark = _evaluation_mark(plan, variants.made(plan, kind, log.info)["model"])
            _evaluate(plan, str(variants.folder(plan, kind)), mark)
            runs.set_mark(runs.read(Path(plan.folder)), f"evaluate {kind}", mark)


def _quantized(plan: TrainingPlan, tuned: Evaluated, kinds: Sequence[Variant]) -> dict[str, Any]:
    """What `evaluation.json` says of the variants that are there: their bytes, and what they lose."""
    found: dict[str, Any] = {}
    for kind in kinds:
        made, scores = variants.there(plan, kind), _scores_of(plan, kind)
        if made is not None and scores is not None:
            after, seed = comparison.read_scores(Path(tuned.folder)), plan.config.seed
            found[kind] = {"bytes": made["bytes"], **comparison.lost(after, comparison.read_scores(scores), seed)}
    return found


def _scores_of(plan: TrainingPlan, kind: Variant) -> Path | None:
    """The folder of a variant's scores, where both are there as they were made."""
    made = variants.there(plan, kind)
    if made is None:
        return None
    mark = _evaluation_mark(plan, made["model"])
    folder = Path(plan.config.runs_dir) / EVALUATED / mark
    return folder if records.read(folder / records.RECORD, mark, folder) is not None else None


def _evaluate(plan: TrainingPlan, which: str, fingerprint: str, standard: str | None = None) -> Evaluated:
    folder = _asked(plan, "evaluation", which, fingerprint)
    if standard is None:
        return Evaluated(folder=folder, fingerprint=fingerprint)
    harness.check(plan.config)  # this machine may not be the one that planned
    online = not all(map(harness.is_file, plan.config.evaluate.harness or ()))
    return Evaluated(folder=folder, fingerprint=fingerprint, standard=_asked(plan, "harness", which, standard, online))


def _asked(plan: TrainingPlan, module: str, which: str, fingerprint: str, online: bool = False) -> str:
    """The folder of what a process found of one model, which another run may be making just now."""
    runs_dir = Path(plan.config.runs_dir)
    folder, path = runs_dir / EVALUATED / fingerprint, Path(plan.folder) / "plan.json"
    with locks.hold(runs_dir, f".evaluated-{fingerprint}", wait=True):
        if records.read(folder / records.RECORD, fingerprint, folder) is None:
            words = (str(path), which, str(folder))
            processes.run(f"smollm3_ft.{module}", *words, on_line=log.info, online=online)
    return str(folder)


def _evaluation_mark(plan: TrainingPlan, model: str) -> str:
    settings = (plan.config.model.dtype, plan.config.evaluate.samples, plan.device_name)
    asked = probes.fingerprint(Path(plan.folder) / "data" / probes.FILE)
    return files.digest([model, plan.prepared.fingerprint, asked, settings, identity.code(*EVALUATION_CODE)])


def _marks_of(run: Run, which: str, plan: TrainingPlan, model: str, done: bool) -> tuple[str, str | None]:
    """What an evaluation, and its standard tasks, are known by: a finished run's stand; one that goes on may do so with
    other code."""
    marks = runs.marks(run) if done else {}
    if f"evaluate {which}" in marks:
        return marks[f"evaluate {which}"], marks.get(f"harness {which}")
    tasks = plan.config.evaluate.harness
    return _evaluation_mark(plan, model), _harness_mark(plan, model, tasks) if tasks else None


def _harness_mark(plan: TrainingPlan, model: str, tasks: Sequence[str]) -> str:
    settings = (plan.config.model.dtype, plan.config.seed, plan.settings.batch_size, plan.device_name)
    return files.digest([model, harness.fingerprint(tasks), settings, identity.code("harness")])


def _both(fingerprint: str, standard: str | None) -> str:
    return f"{fingerprint}-{standard}" if standard else fingerprint


def _set_marks(run: Run, which: str, evaluated: Evaluated) -> None:
    runs.set_mark(run, f"evaluate {which}", evaluated.fingerprint)
    if evaluated.standard is not None:
        runs.set_mark(run, f"harness {which}", Path(evaluated.standard).name)


def found(run: Run, fingerprint: str, standard: str | None, done: bool) -> Evaluated | None:
    """What was found before, where all of it is there and unaltered; a finished run's is not looked at."""
    folders = {mark: Path(run.config.runs_dir) / EVALUATED / mark for mark in (fingerprint, standard) if mark}
    there = (records.read(folder / records.RECORD, mark, folder) is not None for mark, folder in folders.items())
    if done or all(there):
        figures = str(folders[standard]) if standard else None
        return Evaluated(folder=str(folders[fingerprint]), fingerprint=fingerprint, standard=figures)
    return None
