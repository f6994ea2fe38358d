"""Makes the picture of runs side by side: `python docs/compare_picture.py RUN_FOLDER ...`.

Needs Debian's chromium (or another, named by CHROMIUM) and the extra `dev`.
"""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from smollm3_ft import experimentreading, sidebyside

PICTURES = Path(__file__).parent / "pictures"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    found = experimentreading.found(sys.argv[1:], Path("runs"), None)
    seen = sidebyside.view([one.experiment for one in found], [one.curves for one in found])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        page_file = Path(folder) / "compare.html"
        page_file.write_text(sidebyside.page(seen), encoding="utf-8")
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 1350})
        page.goto(f"file://{page_file}")
        page.screenshot(path=PICTURES / "compare.png")
        browser.close()


if __name__ == "__main__":
    main()
