"""The steps before any data is read, without a server."""

from pathlib import Path
from typing import Any

import pytest
from conftest import configure

from smollm3_ft import hubclient, nvidia, runs
from smollm3_ft.errors import ConfigError, HubUnreachable
from tasks import setup


def said(tmp_path: Path, **given: Any) -> str | None:
    """What `authenticate` says of a run."""
    run = runs.begin(configure(name="run", runs_dir=str(tmp_path), **given))
    told: Any = setup.authenticate.fn(run)
    return str(told.message)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that does not answer, to one who has a token."""

    def ask(*_: object) -> None:
        raise HubUnreachable("the Hub does not answer")

    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    monkeypatch.setattr(hubclient, "insist", ask)


@pytest.mark.usefixtures("away")
def test_a_run_that_has_all_here_asks_nobody(tmp_path: Path) -> None:
    """Nobody is told that it is there."""
    assert said(tmp_path) == "nothing to do: no step of this run talks to the Hub"


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("given", [{"monitor__dataset": "me/metrics"}, {"monitor__trackio": "me/trackio"}])
def test_a_hub_that_is_away_fails_no_run_that_only_sends_metrics(tmp_path: Path, given: dict[str, str]) -> None:
    """It says that it is away, and that they wait."""
    told = said(tmp_path, **given)
    assert told == "not now: the Hub does not answer; training goes on, and what it logs waits"


@pytest.mark.usefixtures("away")
def test_a_run_that_needs_the_hub_fails_where_that_is_away(tmp_path: Path) -> None:
    """For its model or its data."""
    with pytest.raises(HubUnreachable):
        said(tmp_path, model__name="HuggingFaceTB/SmolLM3-3B", monitor__dataset="me/metrics")


def test_a_run_does_not_begin_with_a_driver_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch would not see the GPU: what doctor calls a fault is one before anything is spent."""
    card = ("NVIDIA H200", (9, 0))
    monkeypatch.setattr(nvidia, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(nvidia, "driver", lambda: nvidia.Driver("570.86", (12, 8), (card,)))
    with pytest.raises(ConfigError, match=r"torch: .* needs driver 580 or newer; .*update the NVIDIA driver"):
        setup.check_environment.fn(runs.begin(configure(name="run", runs_dir=str(tmp_path))))
