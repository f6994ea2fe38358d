"""Programs that are started as the project's own children, written for a test."""

import textwrap

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
