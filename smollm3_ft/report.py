"""The summary that closes every run, failed and interrupted ones included: JSON, markdown, and a page of its own.

Everything is read from the run's folder: what is not there yet is left out.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from smollm3_ft import agreement, experiments, files, fit, harness, journal, pages, publishing, runs, settling
from smollm3_ft.config import Config, tracker_of
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.monitoring import delivery, local_trackio
from smollm3_ft.runs import Run

Status = Literal["completed", "blocked", "failed", "interrupted"]


class Step(NamedTuple):
    """A step of this run: its final state's name in Prefect, seconds, and whether its result was reused."""

    name: str
    state: str
    seconds: float
    cached: bool


class Failure(NamedTuple):
    """What ended the run early: the step, the cause, and what to do."""

    step: str
    cause: str
    remedy: str


def write(run: Run, status: Status, steps: list[Step], failure: Failure | None = None) -> dict[str, Any]:
    """Write `report.md`, `report.html` and, last, `report.json` into the run's folder. Returns the report.

    A finished run keeps the report that it has, but for what waited to be delivered and is there now, and for where its
    model went since, and in which variants; what is gone of it is written again.
    """
    done = runs.status(run.path) in runs.FINISHED
    report = files.read_json(run.path / "report.json") if done else collect(run, status, steps, failure)
    anew = not done
    if done and any(one["waiting"] for one in report.get("monitoring", {}).values()):
        report["monitoring"], anew = delivery.standings(run), True
    where = {"published": _published(run, report["status"]), "links": links(run)}
    if any(report.get(key) != value for key, value in where.items()):
        report |= {**where, "next_steps": next_steps(run, report["status"])}
        anew = True
    quantized = files.read_json_if_there(run.path / "evaluation.json").get("quantized")
    if report["evaluation"].get("quantized") != quantized:  # variants are made by publishing too
        report["evaluation"], anew = {**report["evaluation"], "quantized": quantized}, True
    for name in ("report.md", "report.html"):
        if anew or not (run.path / name).is_file():
            files.write(run.path / name, render(name, run, report))
    if anew:
        files.write_json(run.path / "report.json", report)
    return report


def collect(run: Run, status: Status, steps: list[Step], failure: Failure | None) -> dict[str, Any]:
    """The content of `report.json`."""
    folder = run.path
    plan = _plan(folder / "plan.json")
    trained = _trained(folder)
    evaluation = files.read_json_if_there(folder / "evaluation.json")
    return {
        "status": status,
        "name": run.name,
        "steps": [step._asdict() for step in steps],
        "failure": failure._asdict() if failure else None,
        "data": files.read_json_if_there(folder / "data" / "ledger.json") or None,
        "train": trained,
        "evaluation": {
            "base": evaluation.get("base"),
            "tuned": evaluation.get("tuned"),
            "difference": evaluation.get("difference"),
            "gate": evaluation.get("gate", {}).get("state", "none"),
            "why": evaluation.get("gate", {}).get("why"),
        },
        "published": _published(run, status),
        "actual": _actual(folder, plan, trained, steps) if plan else {},
        "reproduced": agreement.found(run),
        "accepted_changes": [change.get("what", "") for change in run.accepted],
        "alerts": _alerts(folder) + [{"step": None, "what": what} for what in evaluation.get("warnings", [])],
        "monitoring": delivery.standings(run),
        "links": links(run),
        "next_steps": next_steps(run, status),
    }


def links(run: Run) -> dict[str, str]:
    """Where the results lie, as folders, files and pages; only those that are there."""
    places = {
        "model": run.path / "model",
        "data": run.path / "data" / "report.html",
        "evaluation": run.path / "evaluation.json",
        "metrics": run.path / "metrics.jsonl",
    }
    quarantine = run.path / "data" / "quarantine.jsonl"
    if quarantine.is_file() and quarantine.stat().st_size:
        places["quarantine"] = quarantine
    if tracker_of(run.config) == "local":
        places["trackio"] = local_trackio.folder(run.path.parent)
    found = {name: str(place) for name, place in places.items() if place.exists()}
    published, config = files.read_json_if_there(run.path / publishing.PUBLISHED), run.config
    pages_of = {
        "model page": ("", published.get("repo")),
        "demo": ("spaces/", published.get("demo_space", {}).get("space")),
        "dataset": ("datasets/", dataset if "/" in (dataset := config.monitor.dataset or "") else None),
    }
    found |= {name: f"{_hub()}/{kind}{place}" for name, (kind, place) in pages_of.items() if place}
    return {**found, "trackio": page} if (page := trackio_page(run)) else found


def trackio_page(run: Run) -> str | None:
    """Where the curves are looked at, on a server or a Space."""
    target = run.config.monitor.trackio
    pages = {"server": target, "space": f"{_hub()}/spaces/{target}"}
    return pages.get(tracker_of(run.config) or "off")


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def trusting(config: Config) -> str:
    """What `from_pretrained` has to be told besides, of a model of its own code."""
    return ", trust_remote_code=True" if config.model.trust_remote_code else ""


def next_steps(run: Run, status: Status) -> list[str]:
    """What to do now, as commands where there is one."""
    steps = f"See every step in the browser: {ui(run)}"
    if status in ("failed", "interrupted"):
        return [f"Go on where it stopped: {command(run)}", steps]
    model, page, where = run.path / "model", trackio_page(run), _where(run)
    curves = page or (f"{programs()}smollm3-ft dashboard{where}" if tracker_of(run.config) == "local" else None)
    published = _published(run, status)
    place = published["repo"] if published["verified"] and published["repo"] else model
    found = [
        f"Talk to it: {programs()}smollm3-ft chat {run.name}{where}",
        f'Use the model: transformers.AutoModelForCausalLM.from_pretrained("{place}"{trusting(run.config)})',
        f"See the curves: {curves}" if curves else "See metrics.jsonl",
        steps,
    ]
    own = f"Your own data: {programs()}smollm3-ft init"
    return [*found, own] if run.config.data.source == "builtin:demo" else found


def ui(run: Run) -> str:
    """The command that opens Prefect's pages over this run."""
    return f"{programs()}smollm3-ft ui{_where(run)}"


def _where(run: Run) -> str:
    """The word by which a command finds this run's folder."""
    folder = run.path.parent
    return "" if folder == Path.cwd() / "runs" else f" runs_dir={shlex.quote(str(folder))}"


def command(run: Run) -> str:
    """The command that goes on with this run."""
    return f"{programs()}python -m flows.finetune {shlex.quote(str(run.path / 'config.yaml'))}"


def programs() -> str:
    """The folder of this environment's programs, as a prefix; nothing where it is on the PATH."""
    folder = Path(sys.executable).parent
    return "" if str(folder) in os.environ.get("PATH", "").split(os.pathsep) else f"{os.path.relpath(folder)}/"


def render(template: str, run: Run, report: dict[str, Any]) -> str:
    """The report as markdown or as a page."""
    evaluation = files.read_json_if_there(run.path / "evaluation.json")
    plan = _plan(run.path / "plan.json")
    here = {place: Path(place).relative_to(run.path) for place in report["links"].values() if run.folder in place}
    return (
        pages.templates(escaped=template.endswith(".html"))
        .get_template(template)
        .render(
            report=report,
            about=_about(run, plan),
            settings=dict(settling.facts(plan.settings, plan.predicted)) if plan else {},
            here=here,
            style=pages.style(),
            curve=pages.curves(journal.curves(run.path / "metrics.jsonl", "loss")),
            rewards=pages.curves(journal.curves(run.path / "metrics.jsonl", "reward_margin")),
            metrics=pages.metrics(evaluation),
            rows=evaluation.get("rows"),
            by=evaluation.get("by", {}),
            metrics_of=pages.metrics,
            variants=pages.variants(evaluation),
            answers=evaluation.get("answers"),
            general_rows=evaluation.get("general_rows"),
            standard=harness.shown(evaluation.get("harness", {})),
            gate=evaluation.get("gate", {"state": "none"}),
            samples=evaluation.get("samples", []),
            duration=pages.duration,
            gib=files.gib,
            link=pages.link,
            named=experiments.without_folders,
            agreed=agreement.words(report["reproduced"]) if report.get("reproduced") else [],
        )
    )


def _published(run: Run, status: Status) -> dict[str, Any]:
    """Where the model is, and whether that was verified."""
    nothing = {"target": "none"} if run.config.publish.target == "none" or status == "blocked" else {}
    published = files.read_json_if_there(run.path / publishing.PUBLISHED) or nothing
    return {key: published.get(key) for key in publishing.REPORTED}


def _about(run: Run, plan: TrainingPlan | None) -> str:
    """What was made of what, in a line without folders."""
    model, train = experiments.without_folders(run.config.model.name), run.config.train
    pinned = f" at {run.plan.model.revision[:12]}" if run.plan and run.plan.model.revision else ""
    adapter = plan.settings.adapter if plan else train.adapter
    how = ", ".join([f"recipe {run.config.recipe}", train.method, *([] if adapter == "none" else [adapter])])
    device = f", on {plan.device_name}" if plan else ""
    return f"{model}{pinned}, {how}{device}, begun {experiments.began(run.created)}"


def _trained(folder: Path) -> dict[str, Any]:
    """What training came to; of one that did not end, as far as its journal tells."""
    found = files.read_json_if_there(folder / fit.TRAINED).get("values")
    if found is None:
        records = journal.read(folder / "metrics.jsonl")
        lines = [record for record in records if record.kind == "train"]
        resumed = [record.step for record in records if record.kind == "event" and record.values["what"] == "resumed"]
        last = {**lines[-1].values, "steps": lines[-1].step} if lines else {}
        peak = max((int(record.values.get("memory_bytes", 0)) for record in lines), default=None)
        found = {**last, "epochs": last.get("epoch"), "final_loss": last.get("loss"), "peak_memory_bytes": peak}
        found["resumed_from"] = resumed[-1] if resumed else None
    names = ("steps", "epochs", "tokens", "supervised_tokens", "tokens_per_second", "mfu", "peak_memory_bytes")
    return {name: found.get(name) for name in (*names, "final_loss", "best_step", "resumed_from")}


def _alerts(folder: Path) -> list[dict[str, Any]]:
    """What somebody should look at: while it trained, and beside it."""
    records = [record for name in ("metrics.jsonl", "host.jsonl") for record in journal.read(folder / name)]
    alerts = sorted((record for record in records if record.kind == "alert"), key=lambda record: record.time)
    lost = {name: journal.damaged(folder / name) for name in ("metrics.jsonl", "host.jsonl")}
    said = [f"{name} has lines that are damaged, and passed over: {count}" for name, count in lost.items() if count]
    return [
        *({"step": record.step, "what": record.values["what"]} for record in alerts),
        *({"step": None, "what": what} for what in said),
    ]


def _actual(folder: Path, plan: TrainingPlan, trained: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
    """Beside the plan's predictions. Of a resumed training the journal knows what the steps of this start do not."""
    whole = journal.seconds(journal.read(folder / "metrics.jsonl"))
    seconds = [step.seconds for step in steps if step.name == "train" and not step.cached]
    return {
        "steps": {"predicted": plan.settings.steps, "actual": trained.get("steps")},
        "seconds": {"predicted": plan.predicted.seconds, "actual": max([*seconds, whole or 0.0]) or None},
        "memory_bytes": {"predicted": plan.predicted.memory_bytes, "actual": trained.get("peak_memory_bytes")},
        "tokens": {"predicted": plan.predicted.tokens, "actual": trained.get("tokens")},
    }


def _plan(path: Path) -> TrainingPlan | None:
    try:
        return fit.read(path)
    except ConfigError:
        return None


def read_steps(folder: Path) -> list[Step]:
    """What became of each step, as a run's report has it."""
    return [Step(**step) for step in files.read_json_if_there(folder / "report.json").get("steps", [])]


def read_failure(folder: Path) -> Failure | None:
    """What ended a run early, as its report has it."""
    told = files.read_json_if_there(folder / "report.json").get("failure")
    return Failure(**told) if told else None
