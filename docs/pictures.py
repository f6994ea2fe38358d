"""Makes the pictures of the documentation from a real run: `python docs/pictures.py RUN_FOLDER`.

Needs Debian's chromium (or another, named by CHROMIUM) and the extra `dev`.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from flows import server
from smollm3_ft.monitoring import local_trackio, trackio_rows

PICTURES = Path(__file__).parent / "pictures"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def flow_run_of(name: str) -> str:
    """The id of the newest completed flow run of that name."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        runs = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_DESC)
    # The longest is the one in which everything was done and nothing reused.
    return str(max((run for run in runs if run.state_name == "Completed"), key=lambda run: run.total_run_time).id)


def log_in(page: Page, here: server.Server) -> None:
    """With the password that a server of ours asks for."""
    page.goto(f"{here.url}/v2/runs")
    if here.password:
        page.locator("input[type=password]").fill(here.password)
        page.keyboard.press("Enter")
    page.get_by_role("link", name="Deployments").wait_for()


def run_page(page: Page, here: server.Server, flow_run: str) -> None:
    """Prefect's page of a flow run."""
    log_in(page, here)
    page.goto(f"{here.url}/v2/runs/flow-run/{flow_run}")
    page.get_by_role("tab", name="Logs").wait_for()
    page.wait_for_timeout(3000)  # the graph is drawn after everything has arrived
    page.screenshot(path=PICTURES / "flow-run.png")


def trackio_pages(browser: Browser, folder: Path) -> None:
    """Trackio's dashboard over the local runs: the curves of the run, and the machine while it trained."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    told = {"TRACKIO_DIR": str(local_trackio.folder(folder.parent)), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", f"import trackio; trackio.show(open_browser=False, server_port={port})"]
    with subprocess.Popen(command, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True) as dashboard:
        try:
            assert dashboard.stdout is not None
            assert any(str(port) in line for line in dashboard.stdout)
            page = browser.new_page(viewport={"width": 1400, "height": 1150})
            page.goto(f"http://127.0.0.1:{port}/?project={trackio_rows.PROJECT}")
            for tab, name, shown in (
                ("Metrics", "trackio", "loss|token_accuracy|learning_rate|grad_norm|tokens_per_second"),
                ("System Metrics", "trackio-system", ""),
            ):
                page.get_by_role("button", name=tab, exact=True).click()
                page.get_by_placeholder("e.g., loss").fill(shown)
                page.wait_for_timeout(5000)  # it asks for more again and again, so there is no last answer to wait for
                page.screenshot(path=PICTURES / f"{name}.png")
        finally:
            dashboard.kill()


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    PICTURES.mkdir(exist_ok=True)
    with server.running(folder.parent) as here, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        run_page(browser.new_page(viewport={"width": 1400, "height": 790}), here, flow_run_of(folder.name))
        for source, name, height in (("report.html", "report", 1250), ("data/report.html", "data", 1500)):
            page = browser.new_page(viewport={"width": 1100, "height": height})
            page.goto(f"file://{folder / source}")
            page.screenshot(path=PICTURES / f"{name}.png")
        trackio_pages(browser, folder)
        browser.close()


if __name__ == "__main__":
    main()
