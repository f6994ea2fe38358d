"""`smollm3-ft dashboard`: Trackio's own page over the local runs."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


@pytest.mark.process
def test_the_dashboard_answers_where_it_says(tmp_path: Path) -> None:
    """Also where it is piped."""
    program = "from flows.cli import main; main()"
    words = [sys.executable, "-c", program, "dashboard", f"runs_dir={tmp_path}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        assert serving.stdout is not None
        address = next(found[0] for line in serving.stdout if (found := re.search(r"http://127[^\s\x1b]*", line)))
        with urllib.request.urlopen(address) as answer:
            status = answer.status
        serving.send_signal(signal.SIGINT)
    assert status == 200
