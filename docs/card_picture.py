"""Makes the picture of a model card: `python docs/card_picture.py RUN_FOLDER`.

The card is set as the Hub sets one: its head as labels, its text in a column. Needs Debian's chromium (or another,
named by CHROMIUM) and the extra `dev`.
"""

import html
import os
import sys
import tempfile
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parent / "pictures"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LABELS = ("pipeline_tag", "library_name", "license", "language", "base_model", "datasets", "tags")
STYLE = """
body { font: 16px/1.6 "Source Sans 3", system-ui, sans-serif; color: #1f2937; max-width: 860px; margin: 28px auto }
h1 { font-size: 30px; margin: 24px 0 8px } h2 { font-size: 22px; margin: 28px 0 8px }
h1, h2 { border-bottom: 1px solid #e5e7eb; padding-bottom: 4px }
table { border-collapse: collapse; font-size: 13px; margin: 12px 0 } thead:not(:has(th:not(:empty))) { display: none }
th, td { border: 1px solid #e5e7eb; padding: 4px 8px; text-align: left } th { background: #f9fafb }
code { font: 13px/1.5 ui-monospace, monospace; background: #f3f4f6; padding: 1px 5px; border-radius: 4px }
pre { background: #f9fafb; border: 1px solid #e5e7eb; border-radius: 8px; padding: 12px 16px; overflow-x: auto }
pre code { background: none; padding: 0 } img { max-width: 100% } a { color: #2563eb }
blockquote { border-left: 4px solid #f59e0b; background: #fffbeb; margin: 12px 0; padding: 2px 16px }
.labels span { border: 1px solid #e5e7eb; border-radius: 8px; padding: 2px 10px; margin-right: 6px; font-size: 13px }
"""


def page(card: str) -> str:
    """The card as a page of its own."""
    _, head, text = card.split("---\n", 2)
    told = yaml.safe_load(head)
    values = [told[name] for name in LABELS if name in told]
    labels = [one for value in values for one in (value if isinstance(value, list) else [value])]
    shown = "".join(f"<span>{html.escape(str(label))}</span>" for label in labels)
    body = MarkdownIt("commonmark").enable("table").render(text)
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><p class="labels">{shown}</p>{body}'


def main() -> None:
    folder = Path(sys.argv[1]).absolute() / "model"
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".html", encoding="utf-8") as file, sync_playwright() as p:
        file.write(page((folder / "README.md").read_text(encoding="utf-8")))
        file.flush()
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        shown = browser.new_page(viewport={"width": 1000, "height": 1900})
        shown.goto(f"file://{file.name}")
        shown.screenshot(path=PICTURES / "card.png")
        browser.close()


if __name__ == "__main__":
    main()
