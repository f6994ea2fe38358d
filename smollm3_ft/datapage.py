"""The data page: what became of the rows, how long they are, and some of them with the trained tokens marked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from smollm3_ft import files, pages, shards
from smollm3_ft.chat import Chat

ROWS_SHOWN = 10
QUARANTINE_SHOWN = 20


def page(ledger: dict[str, Any], folder: Path, lengths: npt.NDArray[np.int64], chat: Chat) -> str:
    """A self-contained HTML page of a prepared folder."""
    facts = {
        "rows": f"{sum(source['rows'] for source in ledger['sources']):,}",
        **{split: f"{count:,}" for split, count in ledger["splits"].items()},
        "tokens": f"{ledger['tokens']:,}",
        "in the loss": f"{ledger['supervised_tokens'] / max(1, ledger['tokens']):.0%}",
    }
    return (
        pages.templates()
        .get_template("data.html")
        .render(
            style=pages.style(),
            facts=facts,
            ledger=ledger,
            histogram=_histogram(lengths),
            rows=list(_rows(folder, chat)),
            quarantine=_quarantine(folder),
        )
    )


def _rows(folder: Path, chat: Chat) -> Any:
    table = shards.read(folder / "train.arrow").slice(0, ROWS_SHOWN)
    places = files.read_json(folder / "places.json")["places"]
    for row in table.to_pylist():
        length = row["lengths"][0]  # of a packed sequence, its first document
        tokens = zip(row["mask"][:length], row["input_ids"][:length], strict=True)
        pieces = [
            (chat.tokenizer.decode([token for _, token in group], skip_special_tokens=False), bool(trained))
            for trained, group in itertools.groupby(tokens, key=lambda pair: pair[0])
        ]
        yield {"place": Path(places[row["places"][0]]).name, "line": row["lines"][0], "pieces": pieces}


def _quarantine(folder: Path) -> list[dict[str, Any]]:
    with (folder / "quarantine.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, QUARANTINE_SHOWN)]


def _histogram(lengths: npt.NDArray[np.int64]) -> Markup:
    """Rows by length, as bars of an SVG."""
    counts, edges = np.histogram(lengths, bins=min(30, max(1, int(lengths.max() - lengths.min()) + 1)))
    width, height, bottom = 900, 180, 20
    step = width / len(counts)
    bars = [
        f'<rect x="{index * step:.1f}" y="{height - bottom - bar:.1f}" width="{step - 2:.1f}" height="{bar:.1f}" '
        f'fill="var(--accent)"><title>{count:,} rows of {edges[index]:.0f} to {edges[index + 1]:.0f}</title></rect>'
        for index, count in enumerate(counts)
        for bar in [(height - bottom - 12) * float(count) / float(counts.max())]
    ]
    labels = [
        f'<text x="0" y="{height - 4}">{lengths.min()}</text>',
        f'<text x="{width}" y="{height - 4}" text-anchor="end">{lengths.max()} tokens</text>',
        f'<text x="0" y="10">{counts.max():,} rows</text>',
    ]
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="rows by length">{"".join(bars + labels)}</svg>'
    return Markup(svg)  # noqa: S704  # numbers of ours alone
