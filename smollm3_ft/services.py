"""What a run may talk to, asked whether it is there and lets us in: the Hub, our token, Trackio. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from smollm3_ft import hubclient, layers, permission
from smollm3_ft.config import Config, Monitor, tracker_of
from smollm3_ft.errors import ConfigError, Undelivered
from smollm3_ft.findings import Finding, Look

SECONDS = 5.0  # for an answer
KNOWN = (200, 401)  # what a Hub answers to who asks who they are, with and without a token
WRITES = ("write", "admin")


def checks() -> dict[str, Look]:
    return {"hub": hub, "token": token, "trackio": trackio}


def hub() -> Finding:
    """Whether the Hub answers, without a token."""
    import httpx2
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    place = constants.ENDPOINT
    named = "HF_ENDPOINT" in os.environ
    remedy = "mend HF_ENDPOINT, or unset it" if named else "check the network; what is in the cache still works"
    try:
        hubclient.limit_waiting()
        answer = get_session().get(f"{place}/api/whoami-v2", timeout=SECONDS)
    except OfflineModeIsEnabled:
        return Finding("warning", "HF_HUB_OFFLINE is set: only what is in the cache is used", "unset HF_HUB_OFFLINE")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        what = f"{place} does not answer ({hubclient.cause(error)})"
        return Finding("fault" if named else "warning", what, remedy)
    if answer.status_code not in KNOWN:
        return Finding("fault" if named else "warning", f"{place} answers {answer.status_code}, as no Hub does", remedy)
    return Finding("ok", f"{place} answers")


def token() -> Finding:
    """Whose the token is, and what it may do. No part of it is told."""
    import httpx2
    from huggingface_hub import get_token

    if get_token() is None:
        what = "none: public models and datasets only, and nothing is published on the Hub"
        return Finding("warning", what, "set HF_TOKEN, or `hf auth login`; not needed to train on your own files")
    origin = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token of `hf auth login`"
    try:
        told = hubclient.api().whoami()
    except (httpx2.TransportError, OSError, UnicodeEncodeError) as error:
        try:
            hubclient.check_token(error)
        except ConfigError as unusable:
            return Finding("fault", f"{origin} {unusable.problems[0].what}", unusable.problems[0].remedy)
        if hubclient.is_forbidden(error):
            return Finding(
                "fault", f"the Hub refuses {origin}: it is wrong, or was revoked", f"make one at {permission.TOKENS}"
            )
        return Finding("warning", f"{origin} is set; the Hub did not say whose ({_cause(error)})", "see hub, above")
    return _permissions(origin, told)


def _cause(error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else hubclient.cause(error)


def _permissions(origin: str, told: Mapping[str, Any]) -> Finding:
    """What `whoami` tells of a token."""
    access = told.get("auth", {}).get("accessToken") or {}
    role = access.get("role", "unknown")
    orgs = ", ".join(f"{one['name']} ({one.get('roleInOrg', 'member')})" for one in told.get("orgs", ()))
    who = f"{origin} is of {told['name']}{f', in {orgs}' if orgs else ''}"
    if role in WRITES:
        return Finding("ok", f"{who}; it may write")
    remedy = f"to publish, make one that may write at {permission.TOKENS}; to read and to train, this one is enough"
    if role == "fineGrained":
        places = [
            str(one.get("entity", {}).get("name"))
            for one in access.get("fineGrained", {}).get("scoped", ())
            if "repo.write" in one.get("permissions", ())
        ]
        if places:
            return Finding("ok", f"{who}; fine-grained: it may write to {', '.join(places)}, and nowhere else")
        return Finding("warning", f"{who}; fine-grained, and it may write nowhere: nothing is published", remedy)
    return Finding("warning", f"{who}; it may only read: nothing is published on the Hub", remedy)


def trackio() -> Finding:
    """Where metrics would go by the environment, and whether they are taken there. A Space is not made."""
    try:
        name, target = layers.from_environment(os.environ).get("monitor.trackio", ("", "local"))
    except ConfigError:
        return Finding("warning", "not known while a variable cannot be read", "see variables, above")
    config = Config(monitor=Monitor(trackio=target))
    kind = tracker_of(config)
    if kind in ("off", "local"):
        return Finding("ok", "kept on this machine: smollm3-ft dashboard" if kind == "local" else f"off ({name})")
    if kind is None:
        remedy = "give http(s)://server or owner/space, and a token in TRACKIO_WRITE_TOKEN alone"
        return Finding("fault", f"{name} is no address of a server, and no Space", remedy)
    try:
        return _server(config, name) if kind == "server" else _space(target, name)
    except (Undelivered, ConfigError) as error:
        remedy = error.remedy or f"mend it, or unset {name} to keep metrics on this machine"
        return Finding("fault", f"{name}: {error.message}", remedy)


def _server(config: Config, name: str) -> Finding:
    from smollm3_ft.monitoring import remote_trackio
    from smollm3_ft.runs import Run

    nobody = Run(name="doctor", folder="", run_id="", created="", config=config, code="", lock="")
    return Finding("ok", f"{name}: {remote_trackio.check(nobody)} takes what we send")


def _space(space: str, name: str) -> Finding:
    import httpx2
    from huggingface_hub import errors

    from smollm3_ft.monitoring import trackio_space

    trackio_space.space_token()  # says where it is the user's own
    if trackio_space.own_token() is None:
        return Finding("fault", f"{name}: the Space {space} needs a token that may write to it", "set HF_TOKEN")
    try:
        found = hubclient.api().space_info(space)
    except errors.RepositoryNotFoundError:
        return Finding("ok", f"{name}: the Space {space} is not there yet; the first run makes it")
    except (httpx2.TransportError, errors.HFValidationError, OSError, UnicodeEncodeError) as error:
        hubclient.check_token(error)
        what = f"{name}: the Hub does not tell of {space} ({_cause(error)})"
        return Finding("fault", what, "see hub and token, above")
    stage = found.runtime.stage if found.runtime else "unknown"
    if "ERROR" in stage or stage in ("PAUSED", "STOPPED"):
        remedy = f"see its log and start it: https://huggingface.co/spaces/{space}"
        return Finding("fault", f"{name}: the Space {space} is {stage}", remedy)
    return Finding("ok", f"{name}: the Space {space} is {stage}")
