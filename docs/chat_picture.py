"""Draws docs/pictures/chat.png: a browser asks what a run has trained. `python docs/chat_picture.py RUN_FOLDER`.

Needs Debian's chromium (or another, named by CHROMIUM) and the extra `dev`; the run is one of the recipe `demo`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PICTURE = Path(__file__).parent / "pictures" / "chat.png"
QUESTIONS = {"What is the capital of France?": "Paris", "Which continent is Kenya in?": "Africa"}


def main() -> None:
    """Serve the chat of the run, ask, and draw. Fails where an answer is wrong or anything is asked of elsewhere."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", "chat", sys.argv[1], "--web"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        try:
            address = serving.stdout.readline().strip()
            with sync_playwright() as playwright:
                draw(playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS), address)
        finally:
            serving.send_signal(signal.SIGINT)


def draw(browser: Browser, address: str) -> None:
    """Ask every question and draw the page."""
    page = browser.new_page(viewport={"width": 1000, "height": 800}, device_scale_factor=1.5)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    for question, answer in QUESTIONS.items():
        page.locator("textarea").first.fill(question)
        page.locator("textarea").first.press("Enter")
        page.locator(".bot", has_text=answer).last.wait_for()
        page.locator("button.stop-button, button.submit-button").last.wait_for()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere, elsewhere
    page.mouse.move(0, 0)
    page.screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
