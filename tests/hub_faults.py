"""Faults of the loopback Hub, on demand: which request goes wrong, and how."""

import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Fault(NamedTuple):
    """What becomes of a request.

    `status`: refused with `status` before anything is done, and told when to come again if `retry_after` (seconds) is
    given. `drop`: the connection is closed before anything is done. `lost`: done, but no reply. `truncated`: done, but
    the reply ends in its middle. `stalled`: nothing is done, and nothing comes until the client gives up.
    """

    kind: str
    status: int = 503
    retry_after: int | None = None


KINDS = (Fault("status"), Fault("drop"), Fault("lost"), Fault("truncated"), Fault("stalled"))
# For the request of this number, counted from 1: its fault, or none. It may also do anything else, such as kill.
Plan = Callable[[int], Fault | None]


@dataclass
class Faults:
    """The plan of faults, and how many requests and faults there were under it."""

    plan: Plan = lambda number: None
    requests: int = 0
    struck: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, plan: Plan) -> None:
        """Count requests from 1 again, under a new plan."""
        with self.lock:
            self.plan, self.requests, self.struck = plan, 0, 0

    def next(self) -> Fault | None:
        with self.lock:
            self.requests += 1
            number, plan = self.requests, self.plan
        fault = plan(number)
        with self.lock:
            self.struck += fault is not None
        return fault


def first(times: int, fault: Fault) -> Plan:
    """The next `times` requests."""
    return lambda number: fault if number <= times else None


def only(wanted: int, fault: Fault) -> Plan:
    """One request, by its number."""
    return lambda number: fault if number == wanted else None


def at_random(share: float, seed: int, kinds: tuple[Fault, ...] = KINDS) -> Plan:
    """Each request with a probability: the same numbers for the same seed."""
    chosen: dict[int, Fault | None] = {}
    source, lock, numbers = random.Random(seed), threading.Lock(), itertools.count(1)

    def plan(number: int) -> Fault | None:
        with lock:
            while number not in chosen:
                chosen[next(numbers)] = source.choice(kinds) if source.random() < share else None
            return chosen[number]

    return plan
