"""What this machine's environment lets a run do, whoever asks for it: read folders, run others' code, publish.

`SMOLLM3_FT_READ_ROOTS` (folders, separated as in PATH) and `SMOLLM3_FT_PUBLISH_OWNERS` (owners on the Hub, separated by
commas) permit everything where they are not set, `SMOLLM3_FT_ALLOW_REMOTE_CODE` nothing.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from smollm3_ft import harness, probes
from smollm3_ft.config import Config, tracker_of
from smollm3_ft.errors import Problem
from smollm3_ft.models import is_on_hub as is_hub_model
from smollm3_ft.sources import is_on_hub as is_hub_dataset


def refused(config: Config, environment: Mapping[str, str]) -> Iterator[Problem]:
    """A problem for each thing that `config` asks for and `environment` does not permit."""
    yield from _unread(config, environment.get("SMOLLM3_FT_READ_ROOTS", ""))
    yield from of_the_model(config, environment)
    yield from _not_run(config, environment)
    yield from _unowned(config, environment)


def of_the_model(config: Config, environment: Mapping[str, str]) -> Iterator[Problem]:
    """A problem where the model's own code would be run and may not be."""
    if config.model.trust_remote_code and environment.get("SMOLLM3_FT_ALLOW_REMOTE_CODE") != "1":
        what = "code from a model's repository may not be run here"
        yield Problem("model.trust_remote_code", what, "SMOLLM3_FT_ALLOW_REMOTE_CODE=1 permits it")


def _not_run(config: Config, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Files of lm-eval's tasks, whose templates and functions are code, where what may be read is limited."""
    if environment.get("SMOLLM3_FT_READ_ROOTS") and environment.get("SMOLLM3_FT_ALLOW_REMOTE_CODE") != "1":
        for key, place in harness.places(config):
            what = f"{place} could run code, which may not be done here"
            yield Problem(key, what, "SMOLLM3_FT_ALLOW_REMOTE_CODE=1 permits it")


def _unread(config: Config, roots: str) -> Iterator[Problem]:
    """Places that may not be read: links and `..` are followed first."""
    allowed = [_real(root) for root in roots.split(os.pathsep) if root]
    source = config.data.source
    places = [("model.name", config.model.name)] if not is_hub_model(config.model.name) else []
    names = [source] if isinstance(source, str) else [one.source for one in source]
    places += [("data.source", name) for name in names if not is_hub_dataset(name)]
    places += [*probes.places(config), *harness.places(config)]
    for key, place in places:
        matching = glob.glob(os.path.expanduser(place), recursive=True)  # noqa: PTH111, PTH207  # patterns with a root
        found = [_real(one) for one in (place, *matching)]  # a pattern may lead through a link
        is_inside = all(any(path.is_relative_to(root) for root in allowed) for path in found)
        if allowed and not place.startswith("builtin:") and not is_inside:
            yield Problem(key, f"{place} may not be read here", f"allowed is what lies in {roots}")


def _unowned(config: Config, environment: Mapping[str, str]) -> Iterator[Problem]:
    """What would be written to the Hub under an owner who is not one of those permitted."""
    monitor, publish = config.monitor, config.publish
    places = [
        ("publish.repo", (publish.repo or "") if publish.target == "hub" else None),
        ("publish.demo_space", publish.demo_space),
        ("monitor.dataset", monitor.dataset),
        ("monitor.trackio", monitor.trackio if tracker_of(config) == "space" else None),
    ]
    for key, name in places:
        if name is not None:
            yield from unowned(key, name, environment)


def unowned(key: str, name: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    """A problem where what is named may not be written, for whom it belongs to."""
    owners = [one.strip() for one in environment.get("SMOLLM3_FT_PUBLISH_OWNERS", "").split(",") if one.strip()]
    owner = name.rpartition("/")[0] or environment.get("HF_USERNAME", "")
    if owners and owner not in owners:
        whose = f"what belongs to {owner}" if owner else "what names no owner"
        yield Problem(key, f"{whose} may not be published here", f"allowed are the owners {', '.join(owners)}")


def _real(place: str) -> Path:
    return Path(os.path.realpath(Path(place).expanduser()))  # Path.resolve fails on a link to itself
