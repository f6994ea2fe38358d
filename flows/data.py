"""`smollm3-ft data SOURCE`: what was found in a source, and what would be trained, before anything is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from flows import datadisplay
from smollm3_ft import chat, data, datapush, files, inspection, layers, models, plan, resolve, sources
from smollm3_ft.config import Config, Data
from smollm3_ft.errors import ConfigError, DataError, Problem
from smollm3_ft.hubpush import Place
from smollm3_ft.models import ModelPlan
from smollm3_ft.sources import SourcePlan

OTHER_SECTIONS = ("name", "train", "evaluate", "monitor", "publish", "compute")  # what a look at data does not need
HELD_OUT = ("test", "validation")


class Looked(NamedTuple):
    """A source that was prepared: its ledger, the folder of its quarantine, and, where a row is kept, the whole.

    `data` is as asked for, but for what too few rows could not give.
    """

    ledger: dict[str, Any]
    folder: Path
    prepared: data.Prepared | None
    data: Data


def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, folder, glob, Hub dataset, or FILE.yaml.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The ledger and the quarantine's head as JSON.")] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Upload the kept rows; private, or publish.private=false."),
    ] = None,
) -> None:
    """What is found in a source, and what would be trained: ledger, lengths, quarantine, rows."""
    config = _configuration(source, words or [])
    to = datapush.place(push, config) if push is not None else None
    runs_dir = Path(config.runs_dir)
    plan.check_writable(runs_dir)
    pinned = sources.locate(config.data)
    model = models.pin(config.model, runs_dir)
    looked = look(config, pinned, model, Console(stderr=True, highlight=False, style="dim"))
    pushed = _push(looked, pinned, config, model, to) if to else None
    if as_json:
        value = {"schema_version": 1, **looked.ledger, "quarantine": inspection.quarantine(looked.folder)}
        typer.echo(json.dumps(value | ({"pushed": pushed} if pushed else {}), indent=2))
        return
    console = Console(highlight=False)
    datadisplay.ledger(console, looked.ledger)
    if looked.prepared is not None:
        view = inspection.view(looked.ledger, looked.folder, config.data)
        datadisplay.lengths(console, view)
        datadisplay.rows(console, view, chat.load(Path(model.folder)))
    datadisplay.quarantine(console, looked.ledger, looked.folder)
    if looked.prepared is not None:
        console.print(f"\nAll of it as a page:  {looked.folder / 'report.html'}", soft_wrap=True, markup=False)
    if pushed:
        who = "private" if pushed["private"] else "public"
        told = f"The kept rows, {who}:  {pushed['url']} at {pushed['commit'][:12]}"
        console.print(told, soft_wrap=True, markup=False)


def _push(looked: Looked, pinned: tuple[SourcePlan, ...], config: Config, model: ModelPlan, to: Place) -> Any:
    if looked.prepared is None:
        raise DataError("no row is kept, so there is nothing to push", "see the quarantine for each row")
    tokenizer = config.model.name if models.is_on_hub(config.model.name) else Path(config.model.name).name
    return datapush.push(looked.prepared, pinned, config.data, Path(model.folder), tokenizer, to)


def _configuration(source: str, words: list[str]) -> Config:
    """What the other commands would make of these words; the built-in tokenizer unless a model is named."""
    given = layers.parse_words(words)
    file: dict[str, Any] = {}
    if source.endswith((".yaml", ".yml")):
        file = layers.read_file(Path(source))
    elif "source" in given.get("data", {}):
        raise ConfigError(Problem("data.source", f"is given twice, as {source} too", "name one"))
    else:
        given = layers.merged(given, {"data": {"source": source}})
    known = {name: key for name, key in layers.ENVIRONMENT.items() if key.startswith(("model.", "data."))}
    asked = {name: text for name, text in os.environ.items() if name in known or name.startswith("SMOLLM3_FT_")}
    named = any(layer.get("model", {}).get("name") for layer in (given, file)) or asked.get("MODEL_NAME")
    if not named:
        given = layers.merged(given, {"model": {"name": models.TINY}})
    return resolve.resolve(_needed(given), asked, _needed(file)).config


def _needed(values: Mapping[str, Any]) -> dict[str, Any]:
    needed = {key: value for key, value in values.items() if key not in OTHER_SECTIONS}
    publish = values.get("publish")
    if isinstance(publish, Mapping) and "private" in publish:  # of what is pushed
        needed["publish"] = {"private": publish["private"]}
    return needed


def look(
    config: Config, pinned: tuple[SourcePlan, ...], model: ModelPlan, messages: Console, method: str | None = None
) -> Looked:
    """Prepare; or the bare ledger where no row could be kept and any number of bad rows is allowed.

    Without a `method`, rows are judged by their format alone. Raises DataError as preparing does.
    """
    runs_dir, folder = Path(config.runs_dir), Path(model.folder)
    asked = data.request(pinned, config.data, config.seed, method, folder, model.chat_digest, runs_dir, Path())
    beside = asked.folder.with_name(f".failed-{asked.fingerprint}")
    asked = asked.model_copy(update={"beside": str(beside)})
    try:
        prepared = data.prepare_apart(asked, lambda line: messages.print(line, markup=False))
    except DataError as error:
        if config.data.max_bad_rows == 1.0 and (beside / "ledger.json").is_file():
            book = files.read_json(beside / "ledger.json")
            return Looked(
                {key: value for key, value in book.items() if key != "schema_version"}, beside, None, config.data
            )
        too_few = next((split for split in HELD_OUT if error.message.startswith(f"data.{split}=")), None)
        if too_few is not None:  # of rows that are only looked at, none need be held out
            messages.print(f"{error.message}: none are held out")
            changed = config.data.model_copy(update={too_few: None})
            return look(config.model_copy(update={"data": changed}), pinned, model, messages, method)
        raise DataError(error.message, _with_place(error.remedy, beside / "quarantine.jsonl")) from None
    return Looked(prepared.ledger, Path(prepared.folder), prepared, config.data)


def _with_place(remedy: str, quarantine: Path) -> str:
    """The remedy, and where the dropped rows are named, if any are."""
    if not quarantine.is_file() or not quarantine.stat().st_size:
        return remedy
    return "; ".join(filter(None, (remedy, f"the quarantine is {quarantine}")))
