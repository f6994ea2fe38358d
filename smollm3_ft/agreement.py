"""Whether a run that trains something again came to the same: data, plan and result, and what made them differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smollm3_ft import fit, journal, reproduce
from smollm3_ft.layers import flatten
from smollm3_ft.runs import Origin, Run

# The sections of the configuration that bear on each; the result follows from them and from the machine.
SECTIONS = {"data": ("data", "seed"), "plan": ("seed", "model", "train", "compute")}
WORDS = {True: "the same", False: "differs", None: "cannot be told yet"}


def found(run: Run) -> dict[str, Any] | None:
    """What `report.json` says of it; None for a run that trains nothing again.

    `data`, `plan` and `result` are true where they are the same and None until they are there; `differences` has lines.
    The data are the same where the prepared sequences are, token by token; the result, where the weights are, bit for
    bit.
    """
    origin = run.reproduces
    if origin is None:
        return None
    path = run.path / "plan.json"
    if not path.is_file():
        return {"from": origin.name, "data": None, "plan": None, "result": None, "differences": {}}
    plan = fit.read(path)
    then, now = origin.expected, reproduce.facts(plan)
    told = {group: (_of(origin.values, keys), _of(reproduce.public(plan), keys)) for group, keys in SECTIONS.items()}
    weights = now["result"].get("weights")
    same = {
        "data": then["data"].get("digest") == now["data"]["digest"],
        "plan": then["plan"] == now["plan"] and told["plan"][0] == told["plan"][1],
        "result": then["result"].get("weights") == weights if weights else None,
    }
    apart = [group for group in SECTIONS if not same[group]]
    differences = {group: [*_differing(then[group], now[group]), *_differing(*told[group])] for group in apart}
    if same["result"] is False:
        differences["result"] = list(_losses(run, origin, now["result"]))
        differences["machine"] = list(_differing(then["machine"], now["machine"]))
    return {"from": origin.name, **same, "differences": differences}


def words(agreed: Mapping[str, Any]) -> list[str]:
    """The same as people read it, a line each."""
    lines = [f"{name}: {WORDS[agreed[name]]}" for name in ("data", "plan", "result")]
    if agreed["result"]:
        lines[2] += ", bit for bit"
    for group, what in agreed["differences"].items():
        lines += [f"{group}: {line}" for line in what]
    return lines


def _of(values: Mapping[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    """These sections, key by key; without the folder of a local model, which its digest stands for."""
    found = dict(flatten({section: values[section] for section in sections if section in values}))
    return {k: v for k, v in found.items() if k != "model.name" or not str(v).startswith(reproduce.LOCAL)}


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = dict(flatten(then)), dict(flatten(now))
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            yield f"{key} was {_shown(before.get(key))}, and is {_shown(after.get(key))}"


def _shown(value: Any) -> str:
    """A digest by its beginning."""
    text = "not given" if value is None else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{32,64}", text) else text


def _losses(run: Run, origin: Origin, now: Mapping[str, Any]) -> Iterator[str]:
    """The largest difference of each loss by step, of two journals; of a card, which has none, that at the end."""
    place = Path(origin.place)
    before = journal.curves(place / "metrics.jsonl", "loss") if place.is_dir() else {}
    after = journal.curves(run.path / "metrics.jsonl", "loss")
    for name in before:
        both = dict(before[name]), dict(after.get(name, ()))
        apart = {step: abs(both[0][step] - both[1][step]) for step in both[0].keys() & both[1].keys()}
        if apart:
            step = max(apart, key=lambda at: (apart[at], -at))
            yield f"the {name} loss differs by at most {apart[step]:.3g}, at step {step:.0f}"
    if not before:
        yield f"the last training loss was {origin.expected['result'].get('final_loss')}, and is {now['final_loss']}"
