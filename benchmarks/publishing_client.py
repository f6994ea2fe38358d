"""The client: reads orders, and for each pushes a folder and verifies it in a process of its own, which may be killed.

What is imported is imported once, and forked. `HF_ENDPOINT` names the Hub. Lines on stdout: `{"pid"}` of the process,
then its outcome.
"""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_api, lfs, repocard, snapshot_download  # noqa: F401  # before it is forked

from smollm3_ft import hubclient, hubpush
from smollm3_ft.errors import FinetuneError

SILENT = 2.0  # seconds: for a server on the same machine, as a minute is for one far away
FIRST_WAIT = 0.1
SECONDS = 120  # in which a push ends, or never does


def main() -> None:
    hubclient.SILENT, hubclient.FIRST_WAIT = SILENT, FIRST_WAIT
    for line in sys.stdin:
        _fork(json.loads(line))


def _fork(order: dict[str, Any]) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        signal.alarm(SECONDS)
        os.write(writing, json.dumps(_outcome(order)).encode())
        os._exit(0)
    os.close(writing)
    _say({"pid": pid})
    with os.fdopen(reading, "rb") as told:
        outcome = told.read()
    os.waitpid(pid, 0)
    killed = {"record": None, "error": "killed", "remedy": None, "seconds": float(SECONDS)}
    _say(json.loads(outcome) if outcome else killed)


def _outcome(order: dict[str, Any]) -> dict[str, Any]:
    """What became of a push: its record, or why not, and how long it took."""
    began = time.perf_counter()
    found: dict[str, Any] = {"record": None, "error": None, "remedy": None}
    with tempfile.TemporaryDirectory(dir=order["beside"]) as place:
        constants.HF_HUB_CACHE = f"{place}/cache"  # nothing of a former trial's
        try:
            record = hubpush.push(Path(order["folder"]), order["repo"], True, order["tag"], order["run_id"], "a push")
            hubpush.verify(record, Path(place) / "verified")
            found["record"] = record
        except FinetuneError as error:
            found |= {"error": f"{type(error).__name__}: {error.message}", "remedy": error.remedy or error.message}
        except Exception as error:  # noqa: BLE001  # the outermost border of a process: it is a row's to tell
            found |= {"error": f"{type(error).__name__}: {error}"[:500]}
    return {**found, "seconds": time.perf_counter() - began}


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
