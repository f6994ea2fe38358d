"""A sample of the benchmark of publishing: pushes to a Hub that fails at one request, and pushes that are killed there.

`benchmarks/publishing.py` has every kind of fault at every request.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Hub, a client, and a model on `main` that is to be replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        trials = importlib.import_module("publishing_trials")
        with trials.opened(tmp_path_factory.mktemp("pushes")) as opened:
            yield opened


@pytest.fixture
def trial(bench: Any) -> type[Any]:
    return importlib.import_module("publishing_trials").Trial  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def the_commit(bench: Any) -> int:
    """The number of the request that changes `main`, in a push over an older model."""
    pushed = bench.server.requests[-bench.requests[False] :]
    return 1 + next(number for number, request in enumerate(pushed) if "/commit/" in request)


@pytest.mark.parametrize("kind", ["lost", "stalled", "killed", "killed_after"])
def test_whatever_happens_to_the_commit_there_is_one(bench: Any, trial: Any, the_commit: int, kind: str) -> None:
    """`main` goes from the old model to the new one, whole; a push that was killed is made again and finds its work."""
    found = bench.measured(trial(kind, False, the_commit))
    assert (found["struck"], found["was_killed"]) == (1, kind.startswith("killed"))
    assert found["verified"], found["error"]
    assert (found["states"], found["commits_twice"], found["half_written"]) == (3, 0, 0)


def test_one_that_is_killed_between_its_large_files_goes_on(bench: Any, trial: Any, the_commit: int) -> None:
    """What had arrived is there, and no part of it on `main`."""
    found = bench.measured(trial("killed_after", True, the_commit - 5))
    assert (found["was_killed"], found["verified"], found["states"]) == (True, True, 2), found["error"]


def test_random_faults_everywhere(bench: Any, trial: Any) -> None:
    """5 % of all requests go wrong: a card is cut short, a connection breaks, a look at the tags is lost."""
    found = bench.measured(trial("random", False, None, 58, 0.05))
    assert found["struck"] >= 2
    assert (found["verified"], found["commits_twice"], found["half_written"]) == (True, 0, 0), found["error"]


def test_a_refusal_for_good_ends_it_in_seconds(bench: Any, trial: Any, the_commit: int) -> None:
    """With what to do, and `main` as it was."""
    found = bench.measured(trial("refused", False, the_commit))
    assert found["seconds"] < 5
    assert "the Hub does not let us write to tester/model" in found["error"]
    assert "see what the token may do at https://huggingface.co/settings/tokens" in found["remedy"]
    assert (found["verified"], found["states"]) == (False, 2)
