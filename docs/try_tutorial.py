"""Runs the tutorial from top to bottom, as a new user would: `python docs/try_tutorial.py ROWS.jsonl [QUESTION]`.

A fresh clone of this checkout, a fresh virtual environment, the file as `rows.jsonl`, and every command of the shell
blocks of `tutorial.md`, each with its time and what it printed. The exit code is 1 where one failed. What is a GPU's is
left out where there is none. The commands ask nothing: without a terminal `init` takes what it proposes, and `chat` is
asked QUESTION.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OF_A_GPU = "## The same on a GPU"
SHELL = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Every command of the page's shell blocks, a line each."""
    return [line for block in SHELL.findall(page.replace("\\\n", " ")) for line in block.splitlines() if line]


def tried(command: str, folder: Path, question: str) -> bool:
    """Run a command and say how long it took and what it printed."""
    began = time.monotonic()
    asked = f"{question}\n" if " chat " in command else ""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PREFECT_API_URL")}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**kept, "PREFECT_HOME": str(folder / ".prefect")},
        input=asked,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    sys.stdout.write(f"{'ok    ' if done.returncode == 0 else 'FAILED'} {time.monotonic() - began:6.1f} s  {command}\n")
    sys.stdout.write("".join(f"       | {line}\n" for line in done.stdout.splitlines()))
    return done.returncode == 0


def main(rows: Path, question: str) -> int:
    folder = Path(tempfile.mkdtemp(prefix="tutorial-")) / "smollm3-ft"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    shutil.copy(rows, folder / "rows.jsonl")
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    if shutil.which("nvidia-smi") is None:
        page = page.partition(OF_A_GPU)[0]
    began = time.monotonic()
    failed = [command for command in commands(page) if not tried(command, folder, question)]
    sys.stdout.write(f"\n{len(failed)} failed, {time.monotonic() - began:.0f} s in all, in {folder}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/try_tutorial.py ROWS.jsonl [QUESTION]")
    sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else "What can you tell me?"))
