"""`smollm3-ft init`: a few questions, what each answer takes on this machine, and a configuration to begin with.

Without a terminal the answers are lines of stdin; where they end, the defaults stand.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape

from flows import data as looking
from flows import datadisplay
from flows.asking import Asker
from smollm3_ft import (
    devices,
    doctor,
    files,
    findings,
    initial,
    inspection,
    layers,
    models,
    permission,
    plan,
    reading,
    report,
    resolve,
    services,
    sources,
)
from smollm3_ft.config import Config, Model, tracker_of
from smollm3_ft.devices import Device
from smollm3_ft.errors import ConfigError, DataError, HubUnreachable, Problem
from smollm3_ft.initial import Cost
from smollm3_ft.models import TINY, ModelPlan
from smollm3_ft.predictions import Work
from smollm3_ft.sources import SourcePlan

SMOLLM3, SMOLTALK, DEMO = doctor.SMOLLM3.name, "HuggingFaceTB/smoltalk2", "builtin:demo"
RUNS = Path("runs")
SECONDS = 4.0  # for the Hub to say whose token this is
MOST_COUNTED = 2**24  # bytes of rows
MOST_LOOKED_AT = 2**30  # bytes of rows, which takes a minute or two


class Chosen(NamedTuple):
    """A model by its name, and its shape where that is known."""

    name: str
    shape: ModelPlan | None


class Found(NamedTuple):
    """What is known of the data: keys of `data`, the method that its rows are for, a note, what it amounts to, and how
    many steps the built-in model needs with it where its recipe makes fewer."""

    values: dict[str, Any]
    method: str = "sft"
    note: str = ""
    work: Work | None = None
    steps: int | None = None


def command(
    file: Annotated[Path, typer.Argument(help="The configuration to write.", metavar="[FILE.yaml]")] = Path(
        "finetune.yaml"
    ),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take every default.")] = False,
) -> None:
    """A configuration for your model and your data, from a few questions."""
    asker, device = Asker(Console(highlight=False), yes), devices.detect()
    if file.is_dir():
        raise ConfigError(Problem(str(file), "is a folder", "name a file: smollm3-ft init OTHER.yaml"))
    if file.exists() and not asker.ask(f"{file} is there already. Overwrite it?", "no", _is_yes):
        raise ConfigError(Problem(str(file), "is there already", "name another: smollm3-ft init OTHER.yaml"))
    plan.check_writable(RUNS)
    _greet(asker.console, device)
    known = {key: str(value) for key, (_, value) in layers.from_environment(os.environ).items()}
    model = _model(asker, known, device)
    data = _data(asker, known, model)
    adapter, cost = _adapter(asker, model, data, device)
    values = _values(model, data, adapter)
    values["publish"] = _publish(asker, values)
    values["monitor"] = {"trackio": _trackio(asker, known, values)}
    config = resolve.resolve({}, os.environ, values).config
    size = f"{model.shape.parameters:,} parameters" if model.shape else ""
    notes = {"model.name": size, "data.source": data.note, "train.adapter": initial.told(cost) if cost else ""}
    notes["train.max_steps"] = "Whatever epochs says: this model begins with nothing, and learns little from fewer"
    try:
        files.write(file, initial.written(values, notes, config, shlex.quote(str(file))))
    except OSError as error:
        raise ConfigError(Problem(str(file), f"cannot be written ({error.strerror})", "name another file")) from None
    _say_next(asker.console, shlex.quote(str(file)), config)


def _is_yes(text: str) -> bool:
    return text.lower() in ("y", "yes")


def _greet(console: Console, device: Device) -> None:
    """What is here: the device, and whose token."""
    memory = f"{files.gib(device.memory)} of memory{' available' if device.kind == 'cpu' else ''}"
    token = findings.examine({"token": services.token}, SECONDS)["token"]
    console.print(f"[bold]Here:[/] {escape(device.name)}, {memory}")
    console.print(f"[bold]Hub token:[/] {escape(token.detail)}\n[dim]Enter takes what stands in brackets.[/]")


def _model(asker: Asker, known: Mapping[str, str], device: Device) -> Chosen:
    fitting = [doctor.NAMES[adapter] for adapter in doctor.NAMES if doctor.longest(adapter, device)]
    about = f"3 billion parameters; {', '.join(fitting)} here" if fitting else "3 billion parameters; too many for here"
    slow = ", but a CPU takes days" if fitting and device.kind == "cpu" else ""
    options = {TINY: "1 million, untrained: learns in minutes, to try it all", SMOLLM3: about + slow}
    default = known.get("model.name") or (SMOLLM3 if fitting and device.kind == "cuda" else TINY)
    return asker.choose("Model (a number, a Hub id or a folder)", options, default, _chosen)


def _chosen(name: str) -> Chosen:
    try:
        return Chosen(name, models.pin(Model(name=name), RUNS.absolute()))
    except HubUnreachable:
        return Chosen(name, doctor.SMOLLM3 if name == SMOLLM3 else None)


def _data(asker: Asker, known: Mapping[str, str], model: Chosen) -> Found:
    """The data, looked at where it is on this machine."""
    own = {str(path): _extent(path) for path in initial.data_files(Path())}
    options = {**own, DEMO: "facts about countries, which come with this"}
    if model.name != TINY:
        options[SMOLTALK] = "on the Hub: a part of what SmolLM3 itself was trained on"
    default = known.get("data.source") or next(iter(own), DEMO if model.name == TINY else SMOLTALK)
    question = "Data (a number, a file, a folder or a Hub id)"
    values, pinned = asker.choose(question, options, default, lambda text: _located(asker, _source(text)))
    look = f"{report.programs()}smollm3-ft data {shlex.quote(values['source'])}"
    if pinned is None or any(source.kind == "hub" for source in pinned):
        asker.console.print(f"  [dim]It is looked at when it is prepared, or by:  {escape(look)}[/]", soft_wrap=True)
        return Found(values)
    method = initial.method(pinned)
    if _size(pinned) > MOST_LOOKED_AT:
        asker.console.print(f"  [dim]{files.gib(_size(pinned))}: look at it by  {escape(look)}[/]", soft_wrap=True)
        return Found(values, method)
    return _looked_at(asker.console, model, values, pinned, method)


def _extent(path: Path) -> str:
    """How much there is in a file: its rows, where counting them takes no time."""
    size = path.stat().st_size
    try:
        return files.gib(size) if size > MOST_COUNTED else f"{reading.count_rows(path):,} rows"
    except DataError:
        return "cannot be read"


def _source(text: str) -> dict[str, Any]:
    """Keys of `data`: of SmolLM3's own data the part that its recipes name."""
    return dict(layers.recipe("sft_full")["data"]) if text == SMOLTALK else {"source": text}


def _located(asker: Asker, values: dict[str, Any]) -> tuple[dict[str, Any], tuple[SourcePlan, ...] | None]:
    """The source, pinned; without its plan where the Hub is away. Which part of a dataset is meant is asked."""
    try:
        return values, sources.locate(resolve.resolve({"data": values}, {}).config.data, RUNS.absolute())
    except HubUnreachable:
        return values, None
    except ConfigError as error:
        key = error.problems[0].where.removeprefix("data.")
        if key not in ("config", "split") or key in values:
            raise
        asker.console.print(f"  {escape(str(error))}", soft_wrap=True)
        return asker.ask(f"data.{key}", "", lambda text: _located(asker, {**values, key: text}))


def _size(pinned: tuple[SourcePlan, ...]) -> int:
    return sum(Path(name).stat().st_size for one in pinned for names in one.splits.values() for name in names)


def _looked_at(
    console: Console, model: Chosen, values: dict[str, Any], pinned: tuple[SourcePlan, ...], method: str
) -> Found:
    """Every row prepared as the run will, which finds it done: what is kept, what is dropped, and how much that is."""
    config = _resolved(model, Found(values, method), "none")
    tokenizer = model.shape if model.shape and model.shape.folder else _chosen(TINY).shape
    assert tokenizer is not None
    try:
        looked = looking.look(config, pinned, tokenizer, Console(stderr=True, highlight=False, style="dim"), method)
    except DataError as error:
        console.print(f"  [yellow]As it is, a run would stop here:[/] {escape(str(error))}", soft_wrap=True)
        return Found(values, method, steps=initial.FEWEST_STEPS)
    datadisplay.ledger(console, looked.ledger)
    if tokenizer is not model.shape:
        console.print("  [dim]Tokens are the built-in model's: the Hub, which has this one's, does not answer.[/]")
    none_held_out = {key: "none" for key in looking.HELD_OUT if getattr(looked.data, key) != getattr(config.data, key)}
    (source,) = looked.ledger["sources"]
    note = f"{inspection.formats(source)}: {source['kept']:,} of {source['rows']:,} rows are kept"
    done = looked.prepared
    if done is not None:
        page = Path(done.folder) / "report.html"
        console.print(f"  All of it as a page:  {page}", soft_wrap=True, markup=False)
    work = Work(done.sequences, done.tokens, done.longest, done.rows["train"]) if done else None
    return Found({**values, **none_held_out}, method, note, work, initial.steps(config, work) if work else None)


def _values(model: Chosen, data: Found, adapter: str) -> dict[str, Any]:
    """What was chosen, as the file will have it."""
    recipe = initial.recipe(model.name, data.method, adapter)
    train: dict[str, Any] = {"adapter": adapter}
    if recipe == "demo" and data.method != "sft":
        train["method"] = data.method
    elif model.name == TINY and data.steps is not None:
        train["max_steps"] = data.steps
    if data.method == "dpo" and (recipe == "demo" or adapter != "none"):
        train["learning_rate"] = "auto"  # the recipe's is for another method, or for all weights
    return {"recipe": recipe, "model": {"name": model.name}, "data": data.values, "train": train}


def _resolved(model: Chosen, data: Found, adapter: str) -> Config:
    return resolve.resolve({}, os.environ, _values(model, data, adapter)).config


def _adapter(asker: Asker, model: Chosen, data: Found, device: Device) -> tuple[str, Cost | None]:
    """The adapter, and what it takes where that is known."""
    if model.shape is None:
        options = dict.fromkeys(initial.NAMES, "") | {"auto": "what fits the device, when it trains"}
        return asker.choose("Training", options, "auto", _adapter_named), None
    found = {
        cost.adapter: cost for cost in initial.costs(_resolved(model, data, "none"), data.work, model.shape, device)
    }
    options = {name: f"{initial.NAMES[name]}: {initial.told(cost)}" for name, cost in found.items()}
    default = next((name for name, cost in found.items() if not cost.why_not), "lora")
    chosen = asker.choose("Training (of all weights, or an adapter)", options, default, _adapter_named)
    return chosen, found.get(chosen)


def _adapter_named(text: str) -> str:
    if text not in (*initial.NAMES, "auto"):
        raise ConfigError(Problem("train.adapter", f"{text} is no adapter", f"use {', '.join(initial.NAMES)} or auto"))
    return text


def _publish(asker: Asker, values: dict[str, Any]) -> dict[str, Any]:
    """Where the model goes; whether it may go there is asked of the Hub, where that answers and there is a token."""
    from huggingface_hub import get_token

    def read(text: str) -> dict[str, Any]:
        found = {"target": text} if text in ("local", "none", "hub") else {"target": "hub", "repo": text}
        publish = resolve.resolve({}, os.environ, {**values, "publish": found}).config.publish
        if publish.repo is not None and get_token() is not None:
            with contextlib.suppress(HubUnreachable):  # it is asked again before training
                asker.console.print(f"  [dim]{escape(permission.check(publish, text, SECONDS))}[/]")
        return found

    options = {"local": "the model, checked, stays in the run's folder", "none": "nothing is published"}
    return asker.choose("Publish (a number, or owner/name on the Hub)", options, "local", read)


def _trackio(asker: Asker, known: Mapping[str, str], values: dict[str, Any]) -> str:
    def read(text: str) -> str:
        resolve.resolve({}, os.environ, {**values, "monitor": {"trackio": text}})
        return text

    options = {"local": "on this machine: smollm3-ft dashboard", "off": "in the run's own files alone"}
    question = "Metrics (a number, owner/space, or a server's URL)"
    return asker.choose(question, options, known.get("monitor.trackio", "local"), read)


def _say_next(console: Console, file: str, config: Config) -> None:
    from huggingface_hub import get_token

    programs = report.programs()
    if get_token() is None and (config.publish.target == "hub" or tracker_of(config) == "space"):
        console.print("\n[yellow]The Hub wants a token that may write:[/] set HF_TOKEN, or `hf auth login`.")
    console.print(f"\n[green]{escape(file)} is written.[/] Next:")
    for line, about in (
        (f"{programs}smollm3-ft plan {file}", "what it needs and takes; spends nothing"),
        (f"{programs}python -m flows.finetune {file}", "the run"),
    ):
        console.print(f"  {escape(line)}  [dim]{about}[/]", soft_wrap=True)
