"""`smollm3-ft rows RUN --step N`: the rows that a training step was made of; what was trained at a loss spike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from smollm3_ft import inspection, provenance, runs


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")],
    step: Annotated[int, typer.Option("--step", help="The step, counted from 1.")],
    runs_dir: Annotated[str, typer.Argument(help="The folder of all runs.", metavar="[runs_dir=FOLDER]")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """The rows that a training step was made of."""
    made_of = provenance.step(runs.find(run, Path(runs_dir.removeprefix("runs_dir="))), step)
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, **made_of}, indent=2))
    else:
        _show(Console(highlight=False), made_of)


def _show(console: Console, made_of: dict[str, Any]) -> None:
    sequences = made_of["sequences"]
    documents = [document for sequence in sequences for document in sequence["documents"]]
    tokens, trained = (sum(document[key] for document in documents) for key in ("tokens", "supervised_tokens"))
    console.print(Text.assemble((f"{made_of['run']}, step {made_of['step']}", "bold"), f" of epoch {made_of['epoch']}"))
    console.print(
        f"{len(sequences):,} sequences, {len(documents):,} documents, {tokens:,} tokens, {trained:,} in the loss\n"
    )
    names = inspection.short([document["source"] for document in documents])
    room = max(len(f"{names[document['source']]}:{document['line']}") for document in documents)
    console.print(Text(f"  {'row':<{room}}  tokens  in loss  text", style="dim"))
    for sequence in sequences:
        console.print(f"sequence {sequence['sequence']:,}, {sequence['tokens']:,} tokens")
        for document in sequence["documents"]:
            place = f"{names[document['source']]}:{document['line']}"
            counts = f"{document['tokens']:>6,}  {document['supervised_tokens']:>7,}"
            line = Text(f"  {place:<{room}}  {counts}  {document['text']}")
            line.truncate(console.width, overflow="ellipsis")
            console.print(line, soft_wrap=True)
