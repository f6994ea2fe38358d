"""The data page: what became of the rows, how long they are, and some of them with the trained tokens marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smollm3_ft import inspection, pages
from smollm3_ft.chat import Chat
from smollm3_ft.config import Data

TOKENS_SHOWN = 2000  # of a document
DOCUMENTS_SHOWN = 4  # of a row


def page(ledger: dict[str, Any], folder: Path, data: Data, chat: Chat) -> str:
    """A self-contained HTML page of a prepared folder."""
    view = inspection.view(ledger, folder, data)
    rows = [
        {
            "place": row.place,
            "line": row.line,
            "more": len(row.documents) - DOCUMENTS_SHOWN,
            "documents": [
                {
                    "name": document.name,
                    "tokens": len(document.ids),
                    "trained": sum(document.mask),
                    "pieces": inspection.pieces(chat, document, TOKENS_SHOWN),
                }
                for document in row.documents[:DOCUMENTS_SHOWN]
            ],
        }
        for row in view.rows
    ]
    return (
        pages.templates()
        .get_template("data.html")
        .render(
            style=pages.style(),
            ledger=ledger,
            packed=view.packed,
            counted=view.counted,
            bins=view.bins,
            rows=rows,
            quarantine=view.quarantine,
            dropped=sum(sum(source["dropped"].values()) for source in ledger["sources"]),
            formats=inspection.formats,
            percent=inspection.percent,
        )
    )
