"""Drives Prefect's pages from the form to a finished run, for the pictures of `ui.md`: `python docs/ui_pictures.py`.

It starts a server and workers as `make up` does, in a folder of its own; fills in the form of `finetune/cuda`; follows
the run; sees it fail, since something lies in the place where publishing writes its record; takes that away, and
presses Retry. It ends with an error where a step was done twice or the run did not complete. It needs what
`pictures.py` needs, and takes about two minutes on two cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pictures import CHROMIUM, FLAGS, PICTURES, log_in
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from flows import pool_workers, server, up
from flows.session import SETTINGS

NAME = "from-the-form"
VALUES = {"learning_rate": 0.002, "max_steps": 150, "logging_steps": 2}
PATIENCE = 600
Found = TypeVar("Found")


def until(look: Callable[[], Found | None], what: str) -> Found:
    """Wait for something to be there."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.5)
    return found


def picture(page: Page, name: str) -> None:
    """A screenshot when everything is drawn, in few colours and so small."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2500)  # the graph moves to its place
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as shot:
        shot.convert("RGB").quantize(128).save(path, optimize=True)


def field(page: Page, *path: str) -> Locator:
    """A field of the form by its key and those of its sections."""
    found: Any = page
    for key in path:
        label = found.get_by_text(f"{key} (Optional)", exact=True).first
        found = label.locator("xpath=ancestor::div[contains(@class, 'group')][1]")
    return found  # type: ignore[no-any-return]


def fill_in(page: Page, runs_dir: Path) -> None:
    """A recipe, a name, the folder of runs, and two values; the rest stays empty."""
    field(page, "recipe").get_by_text("Select", exact=True).click()
    page.get_by_role("option", name="demo", exact=True).click()
    field(page, "name").locator("textarea").fill(NAME)
    field(page, "runs_dir").locator("textarea").fill(str(runs_dir))
    for key, value in VALUES.items():
        field(page, "train", key).locator("input").fill(str(value))


def flow_run(client: Any) -> Any:
    """The run that the form started, when it bears its name."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterName

    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["finetune"])),
        flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[NAME])),
    )
    return found[0] if found else None


def tasks(client: Any, run: Any) -> dict[str, list[str]]:
    """The states of a flow run's tasks by their names."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    found: dict[str, list[str]] = {}
    for one in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))):
        found.setdefault(one.name, []).append(str(one.state_name))
    return found


def artifact(client: Any, run: Any, key: str) -> Any:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

    of_the_run = ArtifactFilterFlowRunId(any_=[run.id])
    only = ArtifactFilter(flow_run_id=of_the_run, key=ArtifactFilterKey(any_=[key]))
    found = client.read_artifacts(artifact_filter=only)
    return found[0] if found else None


def seen(page: Page, here: server.Server, client: Any, runs_dir: Path) -> None:
    """The whole of it, from the form to the finished run."""
    log_in(page, here)
    deployment = client.read_deployment_by_name("finetune/cuda")
    page.goto(f"{here.url}/v2/deployments/deployment/{deployment.id}/run")
    page.get_by_text("config", exact=True).wait_for()
    fill_in(page, runs_dir)
    page.get_by_text("Parameters", exact=True).scroll_into_view_if_needed()
    picture(page, "ui-form")
    page.get_by_role("button", name="Submit").click()

    run = until(lambda: flow_run(client), "the run that the form asked for")
    arrived = {key: value for key, value in run.parameters["config"].items() if value != {}}
    assert arrived == {"recipe": "demo", "name": NAME, "runs_dir": str(runs_dir), "train": VALUES}, run.parameters
    obstacle = runs_dir / NAME / "published.json"
    until(obstacle.parent.is_dir, "the run's folder")
    obstacle.mkdir()
    halfway = until(lambda: at_step(artifact(client, run, "training-progress"), 30), "a training that goes on")
    page.goto(f"{here.url}/v2/runs/flow-run/{run.id}")
    picture(page, "ui-running")
    page.goto(f"{here.url}/v2/artifacts/artifact/{artifact(client, run, 'metrics').id}")
    picture(page, "ui-loss")
    page.goto(f"{here.url}/v2/artifacts/artifact/{halfway.id}")
    picture(page, "ui-progress")

    until(lambda: client.read_flow_run(run.id).state.is_final(), "the end of the run that cannot publish")
    failed = client.read_flow_run(run.id)
    assert failed.state_name == "Failed", failed.state
    before = tasks(client, run)
    page.goto(f"{here.url}/v2/runs/flow-run/{run.id}")
    page.get_by_role("tab", name="Details").click()
    picture(page, "ui-failed")
    obstacle.rmdir()
    page.get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name="Retry").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Retry").click()

    until(lambda: client.read_flow_run(run.id).state_name == "Completed", "the end of the retried run")
    page.goto(f"{here.url}/v2/runs/flow-run/{run.id}")
    page.get_by_role("tab", name="Task Runs").click()
    picture(page, "ui-finished")
    page.get_by_role("tab", name="Artifacts").click()
    picture(page, "ui-artifacts")
    check_what_ran(client, run, before)


def at_step(progress: Any, percent: float) -> Any:
    return progress if progress and float(progress.data) >= percent else None


def check_what_ran(client: Any, run: Any, before: dict[str, list[str]]) -> None:
    """What had been done before the failure was done once; what failed, and what follows, a second time."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    after = tasks(client, run)
    for name, states in sorted(after.items()):
        sys.stdout.write(f"{name:<26} {', '.join(states)}\n")
    for name in ("resolve configuration", "plan", "prepare data", "train"):
        assert before[name] == ["Completed"], (name, before[name])
        assert sorted(after[name]) == ["Cached", "Completed"], (name, after[name])
    assert sorted(after["publish"]) == ["Completed", "Failed"], after["publish"]
    parent = FlowRunFilterParentFlowRunId(any_=[run.id])
    (child,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    assert (child.state_name, child.run_count) == ("Completed", 1), child


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = Path(folder) / "runs"
        os.environ |= {"PREFECT_HOME": f"{folder}/prefect", **SETTINGS}
        os.environ.pop("PREFECT_API_URL", None)
        with server.running(runs_dir) as here, sync_playwright() as play:
            from prefect.client.orchestration import get_client

            up.deploy()
            with pool_workers.running(runs_dir / ".locks"), get_client(sync_client=True) as client:
                browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                page = browser.new_page(viewport={"width": 1300, "height": 900})
                page.set_default_timeout(120_000)
                seen(page, here, client, runs_dir)
                browser.close()


if __name__ == "__main__":
    main()
