"""What `make deploy` registers at a Prefect server: pools, deployments, automations."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from flows.pool_workers import POOLS, PREFECT, ROOT, for_prefect
from smollm3_ft.errors import FinetuneError

FOLDER = ROOT / "deployments"
NOTIFY_BLOCK = "smollm3-ft-notify"  # a notification block of this name, of any kind, is told of failed runs


def deploy() -> list[str]:
    """Register everything, or again what has changed. Returns lines that say what there is."""
    with get_client(sync_client=True) as client:
        for pool in POOLS:
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        notified = _register_automations(client)
        names = _register_deployments(client)
    if notified:
        told = f"Failed runs are told to the block {NOTIFY_BLOCK}"
    else:
        told = f"Failed runs are told to nobody: make a notification block named {NOTIFY_BLOCK}, and register again"
    return [f"Deployments: {', '.join(names)}", told]


def _register_deployments(client: SyncPrefectClient) -> list[str]:
    """By Prefect's own command. Of one that is there, schedules and parameters stay as somebody set them."""
    declared = yaml.safe_load((FOLDER / "prefect.yaml").read_text(encoding="utf-8"))
    names = [_name(one) for one in declared["deployments"]]
    with kept(client, names) as there, tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yaml") as file:
        for name, one in zip(names, declared["deployments"], strict=True):
            if name in there:
                one.pop("schedules", None)  # what is not said is not changed
        yaml.safe_dump(declared, file)
        file.flush()
        command = [*PREFECT, "--no-prompt", "deploy", "--prefect-file", file.name, "--all"]
        environment = for_prefect(os.environ)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        what = f"the deployments could not be registered: {(done.stdout + done.stderr).strip()}"
        raise FinetuneError(what, "see that deployments/prefect.yaml is in order, and register again: make deploy")
    return names


def _name(declared: Mapping[str, str]) -> str:
    return f"{declared['entrypoint'].rpartition(':')[2].removesuffix('_flow')}/{declared['name']}"


@contextlib.contextmanager
def kept(client: SyncPrefectClient, names: Sequence[str]) -> Iterator[dict[str, DeploymentResponse]]:
    """Those of the deployments that are there; what they start runs with, and whether they do, is as before then."""
    there = {}
    for name in names:
        with contextlib.suppress(ObjectNotFound):
            there[name] = client.read_deployment_by_name(name)
    try:
        yield there
    finally:
        for name, one in there.items():
            try:
                client.update_deployment(one.id, DeploymentUpdate(parameters=one.parameters, paused=one.paused))
            except PrefectHTTPStatusError as error:
                if error.response.status_code not in (409, 422):
                    raise
                what = f"the parameters of {name} no longer fit, and are those of deployments/prefect.yaml again"
                raise FinetuneError(what, "set them anew in the browser, or by its schedule") from None


def _register_automations(client: SyncPrefectClient) -> bool:
    """Create what is not there, and update what has changed; one that was paused stays so. Whether one notifies."""
    there = {automation.name: automation for automation in client.read_automations()}
    block = _notify_block(client)
    for declared in _declared(block):
        known = there.get(declared.name)
        if known is None:
            client.create_automation(declared)
            continue
        wanted = declared.model_copy(update={"enabled": known.enabled})
        if wanted.model_dump() != known.model_dump(include=set(AutomationCore.model_fields)):
            client.update_automation(known.id, wanted)
    return block is not None


def _declared(block: UUID | None) -> list[AutomationCore]:
    """The automations of `automations.yaml`; those that notify, where there is a block to do so."""
    found = []
    for one in yaml.safe_load((FOLDER / "automations.yaml").read_text(encoding="utf-8"))["automations"]:
        notifying: list[dict[str, Any]] = [act for act in one["actions"] if act["type"] == "send-notification"]
        if notifying and block is None:
            continue
        for action in notifying:
            action["block_document_id"] = block
        found.append(AutomationCore.model_validate(one))
    return found


def _notify_block(client: SyncPrefectClient) -> UUID | None:
    found = [one.id for one in client.read_block_documents(include_secrets=False) if one.name == NOTIFY_BLOCK]
    return found[0] if found else None
