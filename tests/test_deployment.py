"""The deployment as a person registers it, and a run of it on a worker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smollm3_ft import files

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
PREFECT = str(Path(sys.executable).parent / "prefect")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with the pool `default`, the deployments registered, and a worker."""
    from flows import server

    folder = tmp_path_factory.mktemp("deployed")
    os.environ |= {"PREFECT_HOME": str(folder / "home"), "DO_NOT_TRACK": "1"}
    with server.running(folder / "runs"):
        found = dict(os.environ)
        for words in (
            ("work-pool", "create", "default", "--type", "process"),
            ("--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"),
        ):
            subprocess.run([PREFECT, *words], cwd=ROOT, env=found, check=True, capture_output=True)
        worker = [PREFECT, "worker", "start", "--pool", "default"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(worker, cwd=folder, env=found, **quiet) as process:
            yield found
            process.terminate()
    for name in ("PREFECT_HOME", "DO_NOT_TRACK"):
        del os.environ[name]


def test_a_deployed_run_names_itself_and_completes(environment: dict[str, str], tmp_path: Path) -> None:
    """`finetune/local` takes a partial configuration; the worker settles the name and leaves a finished run."""
    parameters = f'{{"config": {{"runs_dir": "{tmp_path}", "train": {{"max_steps": 4}}}}}}'
    command = [PREFECT, "deployment", "run", "finetune/local", "--params", parameters, "--watch"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.glob("smollm3_finetune_*")
    assert files.read_json(run / "report.json")["status"] == "completed"
