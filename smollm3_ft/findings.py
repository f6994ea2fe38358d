"""What checks find, and how they are made: all at the same time, and none harmed by another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

Status = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """What a check found, in a line; the remedy where there is something to do."""

    status: Status
    detail: str
    remedy: str = ""


Look = Callable[[], Finding]


def examine(checks: Mapping[str, Look], seconds: float) -> dict[str, Finding]:
    """Every check's finding, in their order. They look at the same time; one that fails, or hangs, harms no other."""
    found: dict[str, Finding] = {}

    def work(name: str, look: Look) -> None:
        try:
            found[name] = look()
        except Exception as error:  # noqa: BLE001  # the border; the error's text may hold what was sent
            found[name] = Finding("fault", f"the check itself failed ({type(error).__name__})", "report it as a bug")

    threads = {name: threading.Thread(target=work, args=(name, look), daemon=True) for name, look in checks.items()}
    deadline = time.monotonic() + seconds
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    remedy = "see that the disk, device or address that it asks is there, and try again"
    late = Finding("fault", f"no answer within {seconds:g} s", remedy)
    return {name: found.get(name, late) for name in checks}
