"""`smollm3-ft export RUN [FOLDER] [publish.quantize=[int8,int4]]`: a run's model, merged, in a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from smollm3_ft import exporting, files, gate, layers, permitted, report, runs
from smollm3_ft.config import Publish
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.layers import merged
from smollm3_ft.validation import validate

Words = Annotated[
    list[str], typer.Argument(metavar="RUN [FOLDER] [publish.quantize=[int8,int4]]", help="FOLDER: export in the run's")
]


def command(
    words: Words,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001  # read by guarded
) -> None:
    """Write a run's model, merged, and quantized variants of it, into a folder; publishes nothing."""
    named = [word for word in words if "=" not in word]
    if len(named) not in (1, 2):
        raise ConfigError(Problem("run", f"{len(named)} words name no run and folder", "name a run, then its folder"))
    given = layers.parse_words([word for word in words if "=" in word])
    runs_dir = Path(str(given.pop("runs_dir", "runs"))).expanduser().absolute()
    others = [key for key, _ in layers.flatten(given) if key != "publish.quantize"]
    if others:
        raise ConfigError(*(Problem(key, "is no key of an export", "use publish.quantize") for key in others))
    run = runs.read(runs.find(named[0], runs_dir))
    if problems := list(permitted.of_the_model(run.config, os.environ)):
        raise ConfigError(*problems)
    asked: Publish = validate(merged(run.config.model_dump(mode="json"), layers.without_nulls(given))).publish
    kinds = asked.quantize or ()
    place = Path(named[1]).expanduser().absolute() if len(named) == 2 else run.path / "export"
    console = Console(highlight=False)
    size = exporting.export(run, kinds, place, lambda line: console.print(f"[dim]{escape(line)}[/]", soft_wrap=True))
    how = report.trusting(run.config)
    console.print(f"{place}  {files.gib(size)}", soft_wrap=True, markup=False)
    console.print(f'  transformers.AutoModelForCausalLM.from_pretrained("{place}"{how})', soft_wrap=True, markup=False)
    for kind in kinds:
        console.print(f'  … .from_pretrained("{place}", subfolder="{kind}"{how})', soft_wrap=True, markup=False)
    why = gate.blocked(run.path)
    if why is not None:
        console.print(f"[yellow]its gate kept it from being published:[/] {escape(why)}", soft_wrap=True)
