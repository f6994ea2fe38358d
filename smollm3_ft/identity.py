"""Which code and which packages a result came from."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from smollm3_ft import files

PACKAGE = Path(__file__).parent
LOCK = PACKAGE.parent / "requirements.lock"


@functools.cache
def code(*modules: str) -> str:
    """A digest of the library's code, or of the named modules of it alone: what a result depends on."""
    paths = [PACKAGE / f"{module}.py" for module in modules] or sorted(PACKAGE.rglob("*.py"))
    return files.digest([(str(path.relative_to(PACKAGE)), files.sha256(path)) for path in paths])


@functools.cache
def lock() -> str:
    """A digest of the committed pins."""
    return files.sha256(LOCK)[:32] if LOCK.is_file() else "no lock"


def changed(code_then: str, lock_then: str, accepted: Sequence[Mapping[str, str]]) -> list[tuple[str, str, str]]:
    """Of `code` and `lock` what is not as it was, and was not agreed to since: name, then and now, 12 digits each."""
    pairs = (("code", code_then, code()), ("lock", lock_then, lock()))
    return [
        (name, then[:12], now[:12])
        for name, then, now in pairs
        if now != then and now not in [change.get(name) for change in accepted]
    ]


def pins() -> dict[str, str]:
    """The locked version of each package, by its normalised name."""
    lines = LOCK.read_text(encoding="utf-8").splitlines() if LOCK.is_file() else []
    pairs = (line.split("==") for line in lines if "==" in line)
    return {normalised(name): version for name, version in pairs}


def departures() -> list[str]:
    """Installed packages whose version is not the locked one, as `name installed (locked)`."""
    found = []
    locked = pins()
    for distribution in importlib.metadata.distributions():
        name = normalised(distribution.metadata["Name"] or "")
        version = distribution.version.split("+")[0]  # torch's builds differ by device: 2.13.0+cpu
        if name in locked and locked[name] != version:
            found.append(f"{name} {version} ({locked[name]})")
    return sorted(found)


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    names = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "datasets", "smollm3-ft")
    return {name: importlib.metadata.version(name) for name in names}


def normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
