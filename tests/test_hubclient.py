"""How long the Hub is waited for, by a clock that only attempts and pauses move."""

from types import SimpleNamespace

import httpx2
import pytest

from smollm3_ft import hubclient, hubpush
from smollm3_ft.errors import HubUnreachable


class Clock(SimpleNamespace):
    """Takes the place of the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(hubclient, "time", made)
    return made


def test_what_a_transfer_takes_is_no_waiting(clock: Clock) -> None:
    """Attempts of an hour that end in a Hub that is away for a moment are followed by another."""
    attempts = iter([False, False, True])

    def ask() -> str:
        clock.now += 3600
        if next(attempts):
            return "there"
        raise httpx2.ReadError("gone")

    assert hubclient.insist(ask, hubpush.PATIENCE) == "there"


def test_after_a_transfer_the_longest_wait_of_the_hub_is_respected(clock: Clock) -> None:
    """A rate limit of five minutes, behind an upload of an hour."""
    asked = httpx2.Request("POST", "http://127.0.0.1")
    told = {"ratelimit": '"api";r=0;t=300'}
    replies = iter([httpx2.Response(429, headers=told, request=asked), httpx2.Response(200, request=asked)])

    def ask() -> int:
        from huggingface_hub.utils import hf_raise_for_status

        clock.now += 3600
        answer = next(replies)
        hf_raise_for_status(answer)
        return answer.status_code

    assert hubclient.insist(ask, hubpush.PATIENCE) == 200
    assert clock.now >= 2 * 3600 + 300


def test_a_hub_that_stays_silent_is_given_up(clock: Clock) -> None:
    """When silences and pauses are as long as the patience; the last one may begin just before."""

    def ask() -> None:
        clock.now += hubclient.SILENT
        raise httpx2.ReadTimeout("silence")

    with pytest.raises(HubUnreachable):
        hubclient.insist(ask, hubpush.PATIENCE)
    assert abs(clock.now - hubpush.PATIENCE) <= hubclient.SILENT


def test_long_pauses_are_told(clock: Clock) -> None:
    """With what went wrong; short ones are nobody's news."""
    told: list[str] = []

    def ask() -> None:
        raise httpx2.ConnectError("refused")

    with pytest.raises(HubUnreachable):
        hubclient.insist(ask, hubpush.PATIENCE, told.append)
    assert 5 < len(told) < 20
    assert told[0].startswith("the Hub does not answer as it should (refused): asked again in ")
