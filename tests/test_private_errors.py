"""What goes wrong between a flow's steps is stored by Prefect as well, and told in the report: without secrets."""

import pickle
from contextvars import ContextVar
from typing import Any, NoReturn

import httpx
import pytest
from prefect import Flow

from flows.finetune import finetune_flow
from flows.publish import publish_as_asked, publish_flow
from flows.sweep import sweep_flow
from flows.train import train_flow
from smollm3_ft import runs
from smollm3_ft.errors import FinetuneError
from tasks import steps
from tasks.reporting import failure_of

pytestmark = pytest.mark.process
CANARY = f"hf_{'canary' * 6}"
FLOWS = [(finetune_flow, 1), (sweep_flow, 2), (train_flow, 1), (publish_flow, 1), (publish_as_asked, 3)]


class Failing:
    """In the place of what every flow does first: what hangs on its error is a header with a token."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def set(self, *_: Any) -> NoReturn:
        error = self.error("refused")
        error.request = httpx.Request("GET", "http://server/api", headers={"Authorization": f"Bearer {CANARY}"})  # type: ignore[attr-defined]
        raise error


@pytest.mark.parametrize(("flow", "arguments"), FLOWS, ids=lambda one: getattr(one, "__name__", ""))
@pytest.mark.parametrize("error", [RuntimeError, httpx.ConnectError])
def test_no_flow_fails_with_a_secret(
    flow: Flow[..., Any], arguments: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the words of its error, nor in what is stored with it."""
    first = Failing(error)
    monkeypatch.setattr(steps, "HERE", first)
    monkeypatch.setattr(runs, "read", first.set)
    with pytest.raises(FinetuneError) as caught:
        flow.fn(*["nothing"] * arguments)
    assert CANARY.encode() not in pickle.dumps(caught.value)


def test_a_flow_whose_server_is_away_says_so_as_its_report_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence in both, by which the command knows that the report tells of this failure."""
    monkeypatch.setattr(runs, "read", Failing(httpx.ConnectError).set)
    with pytest.raises(FinetuneError) as caught:
        publish_flow.fn("nothing")
    monkeypatch.setattr(steps, "HERE", ContextVar("steps"))
    steps.HERE.set([])
    assert caught.value.message == failure_of(httpx.ConnectError("refused")).cause


def test_a_report_tells_no_secret_of_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it was no step that failed, whose errors are clean."""
    monkeypatch.setattr(steps, "HERE", ContextVar("steps"))
    steps.HERE.set([])
    failure = failure_of(ValueError(f"not with Bearer {CANARY}"))
    assert failure.cause == "ValueError: not with Bearer <secret>"
