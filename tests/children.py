"""Programs that are started as the project's own children, written for a test."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

CHILD = "import os, signal, sys, threading\nfrom smollm3_ft import errors, processes\nfrom smollm3_ft.errors import *\n"


def child(body: str) -> str:
    """A program whose work is `body`, behind the border that the real ones have."""
    return f"{CHILD}def work():\n{textwrap.indent(textwrap.dedent(body), '    ')}\nsys.exit(processes.child(work))"


STOPPING = """
    stop = processes.StopRequest()
    print(os.getpid())
    for _ in range(1000):
        if stop:
            open(sys.argv[1], "w").close()
            sys.exit(processes.INTERRUPTED)
        threading.Event().wait(0.02)
"""

WATCHED = """
import runpy, sys
module = sys.argv.pop(1)
try:
    runpy.run_module(module, run_name="__main__")
except SystemExit as stop:
    code = stop.code or 0
print("imported:", sorted({"torch", "prefect", "transformers", "datasets", "optuna"} & set(sys.modules)))
sys.exit(code)
"""


def watched(module: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that says which heavy packages it imported."""
    command, environment = (
        [sys.executable, "-c", WATCHED, module, *words],
        {**os.environ, "COLUMNS": "200", **variables},
    )
    root = Path(__file__).parent.parent
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False)
