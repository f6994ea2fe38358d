"""A loss that jumps and a loss that does not fall are said, once, and nothing else is."""

import json

import pytest

from smollm3_ft.alarms import Losses


def said(losses: list[float], steps: int | None = None) -> dict[int, str]:
    """What is said at which steps."""
    watched = Losses()
    found = {n: watched.add(loss, n, steps or 10**6) for n, loss in enumerate(losses, start=1)}
    return {step: words for step, words in found.items() if words}


def uneven(count: int) -> list[float]:
    """Losses about 2, a tenth up and down."""
    return [2.0 + 0.1 * (-1) ** n for n in range(count)]


def test_a_jump_is_said_with_its_step() -> None:
    """A loss far above those before it is said, with how to see the rows."""
    (step, words), *more = said([*uneven(30), 6.0, *uneven(30)]).items()
    assert step == 31
    assert words.format(run="a") == "the loss jumped to 6 from about 2; its rows: smollm3-ft rows a --step 31"
    assert not more


def test_a_loss_that_stays_up_is_said_once() -> None:
    """After an alarm there is quiet, in which the new height becomes usual."""
    assert len(said([*uneven(30), *[6.0] * 80])) == 1


@pytest.mark.parametrize("losses", [[*uneven(30), 2.3], [9.0, 2.0, 9.0, 2.0], [2.0] * 40 + [2.2], [2.0] * 5 + [9.0]])
def test_what_is_no_jump(losses: list[float]) -> None:
    """Neither what varies as it did, nor a small change of what hardly varied, nor anything in the first steps."""
    assert not said(losses)


def test_a_loss_that_does_not_fall_is_said() -> None:
    """It is said in the middle of the training, and again at its end."""
    told = said(uneven(100), steps=100)
    assert list(told) == [50, 100]
    assert told[50].startswith("the loss does not fall: 2.004 in the first 25 steps, 1.996 in the last; look at")


@pytest.mark.parametrize(("losses", "steps"), [([3 - n / 100 for n in range(100)], 100), (uneven(30), 30)])
def test_what_falls_or_is_short_is_not_flat(losses: list[float], steps: int) -> None:
    """A loss that falls is no alarm, and a few steps tell nothing."""
    assert not said(losses, steps)


def test_what_is_saved_goes_on() -> None:
    """Saved in the middle and read again, it says the same as without a stop."""
    losses = [*uneven(45), 7.0, *uneven(10), 7.0]
    before = Losses()
    for step, loss in enumerate(losses[:40], start=1):
        before.add(loss, step, 114)
    after = Losses(json.loads(json.dumps(before.saved())))
    found = {step: after.add(loss, step, 114) for step, loss in enumerate(losses[40:], start=41)}
    assert {step: words for step, words in found.items() if words} == said(losses, 114)
