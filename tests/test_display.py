"""What the terminal shows of the library's log."""

import io

from rich.console import Console

from flows import display
from tasks import steps


def test_a_terminal_shows_what_is_waited_for() -> None:
    """Where a step has a bar, other lines from inside it are left out."""
    shown = io.StringIO()
    with display.shown(Console(file=shown, force_terminal=True)):
        steps.log.info("inside")
        steps.log.info("waiting", extra={"waits": True})
    assert "waiting" in shown.getvalue()
    assert "inside" not in shown.getvalue()
