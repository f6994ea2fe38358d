"""`make up`, `make deploy`, `make worker`: `python -m flows.up [deploy | worker [POOL]]`; workers work until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from flows import pool_workers, server
from flows.cli import DONE, FAILED, USAGE
from flows.pool_workers import POOLS
from flows.session import SETTINGS
from smollm3_ft.errors import FinetuneError

LOGS = Path("runs").absolute() / ".locks"


def main(words: list[str]) -> int:
    """Returns the exit code."""
    commands: dict[tuple[str, ...], Callable[[], None]] = {(): up, ("deploy",): deploy, ("worker",): work}
    commands |= {("worker", pool): partial(work, (pool,)) for pool in POOLS}
    command = commands.get(tuple(words))
    if command is None:
        sys.stderr.write(f"usage: python -m flows.up [deploy | worker [{' | '.join(POOLS)}]]\n")
        return USAGE
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background, and by children
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        command()
    except KeyboardInterrupt:
        return DONE
    except FinetuneError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return DONE


def up() -> None:
    """Server, pools, deployments and workers, until Ctrl-C."""
    pool_workers.say("The server starts; that takes up to half a minute.")
    with server.running(Path("runs").absolute()) as prefect:
        pool_workers.say(_register()[0])
        with pool_workers.running(LOGS, POOLS) as kept:
            login = f"  (password {prefect.password})" if prefect.password else ""
            pool_workers.say(f"{prefect.url}/v2/deployments{login}\nCtrl-C ends it.")
            _stay(kept)


def deploy() -> None:
    """Register pools, deployments and automations at the server that PREFECT_API_URL names."""
    _check_there_is_a_server()
    for line in _register():
        pool_workers.say(line)


def _register() -> list[str]:
    from flows.deploy import deploy as register  # it imports Prefect, and not all of the commands need that

    return register()


def work(pools: Sequence[str] = POOLS) -> None:
    """A worker for each of the pools, and each device of this machine, until Ctrl-C."""
    _check_there_is_a_server()
    with pool_workers.running(LOGS, pools) as kept:
        pool_workers.say("Ctrl-C ends it.")
        _stay(kept)


def _stay(kept: list[pool_workers.Kept]) -> NoReturn:
    """Keep the workers at work until Ctrl-C; raise FinetuneError where that is of no use."""
    while True:
        pool_workers.look_after(kept)
        if any(process.poll() is not None for process in server.STARTED[:1]):
            raise FinetuneError("the local Prefect server has ended", f"see {LOGS / '.server-log'}, and start again")
        time.sleep(1)


def _check_there_is_a_server() -> None:
    named = os.environ.get("PREFECT_API_URL")
    if not named:
        raise FinetuneError("PREFECT_API_URL names no Prefect server", "set it, or `make up` starts one too")
    server.check(named)


def _interrupted(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
