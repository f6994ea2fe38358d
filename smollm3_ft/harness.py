"""Standard tasks by lm-eval: `python -m smollm3_ft.harness <runs_dir>/<name>/plan.json base|tuned|MODEL <folder>`.

A task is one that lm-eval knows by its name, or a file that describes one. A file's own rows lie where it says, seen
from its folder; then nothing is asked of the network, and nothing is left outside the folder that the result goes to.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.metadata
import importlib.util
import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smollm3_ft import chat, files, fit, hubclient, processes, records, runs
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, Problem, TrainingError

KEY = "evaluate.harness"
RESULT = "harness.json"
ENDINGS = (".yaml", ".yml")
# What lm-eval's own files call a task, a group or a tag, and what they list.
NAMES = re.compile(
    rb"^ *[\"']?(?:task|group|tag)[\"']?: *[\[\"']*([^\s\"'#\[\],]+)|^ *- +[\"']?([^\s\"':#]+)[\"']? *(?:#.*)?$",
    re.MULTILINE,
)
BOOTSTRAPS = 1000  # of a standard error that no formula gives


def is_file(task: str) -> bool:
    return task.endswith(ENDINGS)


def places(config: Config) -> Iterator[tuple[str, str]]:
    """The files among the tasks, each with its key."""
    for task in config.evaluate.harness or ():
        if is_file(task):
            yield KEY, task


def check(config: Config) -> None:
    """Raise ConfigError where lm-eval is not installed, does not know a task, or a file describes none."""
    asked = config.evaluate.harness
    if asked is None:
        return
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        what = "needs lm-eval, which is not installed"
        raise ConfigError(Problem(KEY, what, "install it: make setup EXTRAS=eval; or leave it out"))
    problems = [problem for task in asked if is_file(task) for problem in _of_file(Path(task))]
    named = [task for task in asked if not is_file(task)]
    known = _known(Path(found.submodule_search_locations[0]) / "tasks") if named else frozenset()
    for task in named:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "`lm_eval ls tasks` lists them; a file ends in .yaml"
            problems.append(Problem(KEY, f"lm-eval has no task {task}", remedy))
    if problems:
        raise ConfigError(*problems)


def _of_file(path: Path) -> Iterator[Problem]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield Problem(KEY, f"{path} cannot be read ({getattr(error, 'strerror', 'no UTF-8')})", "name a task's file")
        return
    if not re.search(r"^task *: *\S", text, re.MULTILINE):
        yield Problem(KEY, f"{path} describes no task", "it needs a line `task: NAME`")


@functools.cache
def _known(folder: Path) -> frozenset[str]:
    """Every name in lm-eval's own files, read as text: its index of them takes fifteen times as long."""
    paths = (path for path in folder.rglob("*") if path.suffix in ("", *ENDINGS) and path.is_file())
    found = (pair for path in paths for pair in NAMES.findall(path.read_bytes()))
    return frozenset((name or listed).decode(errors="replace") for name, listed in found)


def fingerprint(tasks: Sequence[str]) -> str:
    """Of what is asked: names, and each file with those beside it, where its rows and its functions lie."""
    listed = {task: sorted(p for p in Path(task).parent.iterdir() if p.is_file()) for task in tasks if is_file(task)}
    content = {task: [(path.name, files.sha256(path)) for path in beside] for task, beside in listed.items()}
    return files.digest([list(tasks), content, importlib.metadata.version("lm_eval")])


def read(folder: Path) -> dict[str, Any]:
    """What was found of a model: of each task its figures."""
    return dict(files.read_json(folder / RESULT)["tasks"])


class Figure(NamedTuple):
    """A metric of a task as people read it: of base and of tuned model, with its standard error."""

    task: str
    metric: str
    base: str
    tuned: str


def shown(sides: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Figure]:
    """The metrics of `evaluation.json`'s `harness`, in their order."""
    base, tuned = sides.get("base", {}), sides.get("tuned", {})
    return [
        Figure(task, metric, *(_with_error(side.get(task, {}), metric) for side in (base, tuned)))
        for task, values in tuned.items()
        for metric in values
        if not metric.endswith("_stderr")
    ]


def _with_error(values: Mapping[str, float], metric: str) -> str:
    if metric not in values:
        return "–"
    error = values.get(f"{metric}_stderr")
    return f"{values[metric]:.4g}" if error is None else f"{values[metric]:.3f} ± {error:.3f}"


def main() -> None:
    """Ask one model."""
    if len(sys.argv) != 4:
        raise ConfigError(Problem("usage", "python -m smollm3_ft.harness PLAN.json base|tuned|MODEL FOLDER"))
    processes.end_with_parent()
    plan, which, final = fit.read(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
    fit.check_made_here(plan, runs.read(Path(plan.folder)).accepted)
    weights = {"base": Path(plan.weights), "tuned": Path(plan.folder) / "model"}.get(which, Path(which))
    partial = final.with_name(f".partial-{final.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    figures = evaluate(plan, weights, partial / "rows")
    shutil.rmtree(partial / "rows", ignore_errors=True)
    files.write_json(partial / RESULT, {"tasks": figures})
    records.write(partial / records.RECORD, final.name, {"which": which}, partial)
    files.move_folder(partial, final)
    for task, values in figures.items():
        told = (f"{name} {value:.4g}" for name, value in values.items() if not name.endswith("_stderr"))
        print(f"{which}, {task}: {', '.join(told)}")  # noqa: T201  # to the parent


def evaluate(plan: fit.TrainingPlan, weights: Path, cache: Path) -> dict[str, dict[str, float]]:
    """Each task's figures. The rows of a task's file are kept in `cache` meanwhile."""
    os.environ["DISABLE_MULTIPROC"] = "1"  # a standard error that is drawn: no copies of a process with threads
    import httpx2
    import torch
    import transformers
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    from smollm3_ft import evaluation

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers.set_seed(plan.config.seed)
    model, tokenizer = evaluation.load(weights, plan.config.model.dtype, plan.device, code=plan.model.code)
    asked = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=plan.settings.batch_size,
        enable_thinking=False,  # it refuses to score choices otherwise
        chat_template_args={"strftime_now": chat.TODAY.strftime},  # the same prompt on every day
    )
    try:
        tasks = _loaded(plan, cache)
    except (OSError, httpx2.TransportError) as error:
        what = f"the rows of a standard task could not be got ({hubclient.cause(error)})"
        raise TrainingError(what, "check the network; a gated dataset needs `hf auth login`") from None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a line for each move of its progress bars
            results = evaluator.evaluate(
                asked,
                tasks,
                bootstrap_iters=BOOTSTRAPS,
                log_samples=False,
                apply_chat_template=True,
                fewshot_as_multiturn=True,
            )
    except torch.OutOfMemoryError as error:
        raise TrainingError("the device ran out of memory in the harness", "lower train.batch_size") from error
    return figures(results)


def _loaded(plan: fit.TrainingPlan, cache: Path) -> Any:
    """The tasks, with their rows: a file's are found from its folder, and copied nowhere else than to `cache`."""
    import datasets
    from lm_eval.tasks import TaskManager

    names = plan.config.evaluate.harness or ()
    manager = TaskManager(include_defaults=not all(map(is_file, names)))  # which takes it ten seconds to look through
    listed: list[Any] = [name for name in names if not is_file(name)]
    here, usual = Path.cwd(), datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = cache
    for name in filter(is_file, names):
        os.chdir(Path(name).parent)
        listed += manager.load([name])["tasks"].values()
    os.chdir(here)
    datasets.config.HF_DATASETS_CACHE = usual
    loaded = manager.load(listed)
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=plan.config.seed)
    return loaded


def figures(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of each task its metrics, and of each metric the standard error, where there is one, as `<metric>_stderr`.

    A metric of answers that were filtered has the filter's name behind it. Of a group that has figures of its own,
    those of its parts are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, by = key.partition(",")
            if comma and isinstance(value, int | float):
                name = metric.removesuffix("_stderr") + ("" if by == "none" else f"_{by}")
                error = "_stderr" if metric.endswith("_stderr") else ""
                found.setdefault(task, {})[name + error] = float(value)
    parts = {part for group, listed in results.get("group_subtasks", {}).items() if group in found for part in listed}
    return {task: values for task, values in found.items() if task not in parts}


if __name__ == "__main__":
    code = processes.child(main)
    sys.stdout.flush()
    os._exit(code)
