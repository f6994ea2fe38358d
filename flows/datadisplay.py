"""What `smollm3-ft data` shows in the terminal. Without colours, trained tokens stand in brackets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from smollm3_ft import inspection
from smollm3_ft.chat import Chat
from smollm3_ft.inspection import Document, View, percent

BLOCKS = " ▏▎▍▌▋▊▉█"
TOKENS_SHOWN = 120  # of a document
DOCUMENTS_SHOWN = 2  # of a row
LEAKS_SHOWN = 5
STYLES = {"text": "", "special": "cyan", "unseen": "dim", "gap": "dim italic"}


def ledger(console: Console, book: dict[str, Any]) -> None:
    """What was found in each source and what became of it, and what is left in all."""
    for source in book["sources"]:
        console.print(Text(source["source"], style="bold"), soft_wrap=True)
        facts = {
            "found": inspection.formats(source),
            "rows": f"{source['rows']:,}",
            "kept": f"{source['kept']:,} ({percent(source['kept'], source['rows'])})",
            "dropped": _counts(source["dropped"]) or "none",
            "cut": f"{source['cut']:,}" if source["cut"] else "",
            "noted": _counts(source["noted"]),
            "repeated": f"{source['repeated']:,} for the weight in the mixture" if source["repeated"] else "",
        }
        _pairs(console, facts)
    leaks = book["leaks"]
    for leak in leaks["first"][:LEAKS_SHOWN]:
        words = f"  leak: {leak['row']} and {leak['held_out']}, which is held out"
        console.print(Text(words, "yellow"), soft_wrap=True)
    if leaks["first"]:
        words = f"{leaks['exact']:,} rows repeat a held-out row, {leaks['near']:,} nearly do"
        _pairs(console, {"leaks": f"{words}; {leaks['excluded']:,} left out"})
    share = percent(book["supervised_tokens"], book["tokens"])
    splits = ", ".join(f"{split} {count:,}" for split, count in book["splits"].items())
    _pairs(console, {"splits": splits, "tokens": f"{book['tokens']:,}, {share} of them in the loss"})


def lengths(console: Console, view: View) -> None:
    """How long rows are and where the tokens lie, as bars, and how well they are packed."""
    room = max(8, (min(console.width, 120) - 46) // 2)
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("length", justify="right")
    table.add_column(view.counted, width=room)
    table.add_column("", justify="right")
    table.add_column("tokens", width=room)
    table.add_column("", justify="right")
    table.add_column("in the loss", justify="right")
    most = max(one.documents for one in view.bins), max(one.tokens for one in view.bins)
    for one in view.bins:
        name = f"{one.first:,}" if one.first == one.last else f"{one.first:,}–{one.last:,}"
        bars = (
            Text(_bar(value, top, room), "blue") for value, top in zip((one.documents, one.tokens), most, strict=True)
        )
        rows, tokens = bars
        loss = percent(one.trained, one.tokens) if one.tokens else ""
        table.add_row(name, rows, f"{one.documents:,}", tokens, f"{one.tokens:,}", loss)
    console.print(Padding(table, (1, 0, 0, 2), expand=False))
    if view.packed is not None:
        packed = view.packed
        words = (
            f"packed: {packed.sequences:,} sequences of {packed.capacity:,} tokens, {100 * packed.fill:.1f} % filled"
        )
        console.print(f"  {words}")


def rows(console: Console, view: View, chat: Chat) -> None:
    """Some rows as they are trained."""
    plain = console.no_color or console.color_system is None
    legend = (
        Text("tokens in ⟦ ⟧ are in the loss") if plain else Text.assemble(("these tokens", "green"), " are in the loss")
    )
    console.print(Text.assemble("\n", ("Rows as they are trained", "bold"), ": ", legend))
    for row in view.rows:
        for document in row.documents[:DOCUMENTS_SHOWN]:
            place = f"{row.place}:{row.line}" + (f", {document.name}" if document.name else "")
            counts = f"{len(document.ids):,} tokens, {sum(document.mask):,} in the loss"
            console.print(Text.assemble("\n  ", place, "  ", (counts, "dim")), soft_wrap=True)
            console.print(Padding(_text(chat, document, plain), (0, 0, 0, 4), expand=False))


def quarantine(console: Console, book: dict[str, Any], folder: Path) -> None:
    """The first dropped rows, and where all of them are."""
    dropped = sum(sum(source["dropped"].values()) for source in book["sources"])
    if not dropped:
        return
    head = inspection.quarantine(folder)
    names = inspection.short([row["source"] for row in head])
    console.print(Text.assemble("\n", ("Quarantine", "bold"), f": the first {len(head)} of {dropped:,} dropped rows"))
    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(style="yellow", no_wrap=True)
    table.add_column(overflow="fold")
    for row in head:
        table.add_row(Text(f"{names[row['source']]}:{row['line']}"), row["reason"], Text(row["detail"]))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    console.print(f"  {folder / 'quarantine.jsonl'}", soft_wrap=True, markup=False)


def _pairs(console: Console, facts: dict[str, str]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="dim", width=8)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(value))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _bar(value: int, most: int, room: int) -> str:
    """A bar in eighths of a character; what is more than nothing is seen."""
    eighths = max(round(8 * room * value / most), int(value > 0))
    return "█" * (eighths // 8) + BLOCKS[eighths % 8].strip()


def _text(chat: Chat, document: Document, plain: bool) -> Text:
    text = Text(overflow="fold")
    before = False
    for piece in inspection.pieces(chat, document, TOKENS_SHOWN):
        if plain and piece.trained != before:
            text.append("⟦" if piece.trained else "⟧")
        before = piece.trained
        style = STYLES[piece.kind] if not piece.trained else "green" if piece.kind != "special" else "bold green"
        text.append(piece.text.replace("\n", "").replace("\t", ""), style)
    if plain and before:
        text.append("⟧")
    return text
