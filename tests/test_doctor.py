"""`smollm3-ft doctor`: each fault that is planted is named with its remedy, and no token is shown."""

import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub import hub
from trackios import free_port

from flows import doctor_command
from smollm3_ft import devices, disk, doctor, findings, identity, nvidia, services
from smollm3_ft.devices import Device
from smollm3_ft.findings import Finding
from smollm3_ft.nvidia import Driver

OLD, NEW = Driver("570.86.10", (12, 8), (("NVIDIA H200", (9, 0)),)), Driver("580.65", (13, 0), (("H200", (9, 0)),))
ASK_OF_TOKENS = """
import json, os, sys
from smollm3_ft import services
found = {"hub": services.hub()}
for token in sys.argv[1:]:
    os.environ["HF_TOKEN"] = token
    found[token] = services.token()
del os.environ["HF_TOKEN"]
found["none"] = services.token()
os.environ.update(HF_TOKEN="hf_write", TRACKIO_SPACE_ID="tester/there")
found["space"] = services.trackio()
os.environ["TRACKIO_SPACE_ID"] = "tester/not-yet"
found["no space"] = services.trackio()
print(json.dumps(found))
"""
TOKENS = ("hf_write", "hf_read", "hf_fine", "hf_revoked", "hf_a\u00e9")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    """What is said of the Hub, of each token, and of Spaces."""
    with hub() as there:
        there.add("space", "tester/there", {"app.py": b""})
        said = there.ask(ASK_OF_TOKENS, tmp_path_factory.mktemp("home"), *TOKENS)
    return {name: Finding(*finding) for name, finding in said.items()}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables; none of those that doctor reads is set otherwise."""
    names = ("HF_TOKEN", "HF_ENDPOINT", "PREFECT_API_URL", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")

    def set_to(**variables: str) -> None:
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_to()
    return set_to


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with this torch and this driver."""

    def set_to(cuda: str | None, driver: Driver | None) -> None:
        monkeypatch.setattr(nvidia, "torch_cuda", lambda: cuda)
        monkeypatch.setattr(nvidia, "driver", lambda: driver)

    return set_to


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """A package of another version than is really there."""
    about = folder / f"{name}-{version}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_this_machine_has_no_fault(tmp_path: Path) -> None:
    """What asks nobody works where the tests run."""
    found = findings.examine(doctor.of_this_machine(tmp_path), 60)
    assert [name for name, finding in found.items() if finding.status == "fault"] == []


def test_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the versions that serve, and how to get there."""
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.1")
    found = doctor.python()
    assert found.status == "fault"
    assert "Python 3.13.1, this needs <3.12,>=3.11" in found.detail


def test_an_old_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its version, the one that is needed, and the command that brings it."""
    planted(tmp_path, monkeypatch, "trl", "0.9.0")
    assert doctor.packages() == Finding("fault", "needed otherwise: trl 0.9.0 (trl<1.17,>=1.16)", "make setup")


def test_a_package_that_departs_from_the_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may serve, and results may differ: a warning."""
    planted(tmp_path, monkeypatch, "rich", "99.0")
    found = doctor.packages()
    assert (found.status, f"rich 99.0 ({identity.pins()['rich']})" in found.detail) == ("warning", True)


def test_a_driver_too_old_for_torch_is_named(on: Callable[..., None]) -> None:
    """With what torch needs, and both ways out."""
    on("13.0", OLD)
    found = nvidia.torch_and_driver()
    assert found.status == "fault"
    assert "needs driver 580 or newer; driver 570.86.10 speaks CUDA 12.8" in found.detail
    assert found.remedy == "update the NVIDIA driver, or install torch built for CUDA 12"


@pytest.mark.parametrize(
    ("cuda", "driver", "status", "said"),
    [
        ("13.0", NEW, "ok", "built for CUDA 13.0; driver 580.65; H200"),
        ("12.6", NEW, "ok", "built for CUDA 12.6"),
        ("13.0", None, "warning", "no NVIDIA driver answers"),
        ("13.0", NEW._replace(cards=()), "warning", "shows no GPU"),
        (None, NEW, "warning", "built for the CPU, and here is H200"),
        (None, None, "ok", "no NVIDIA GPU here"),
    ],
)
def test_torch_and_driver(on: Callable[..., None], cuda: str, driver: Driver, status: str, said: str) -> None:
    """A newer driver runs older builds; a GPU that stays unused is told."""
    on(cuda, driver)
    found = nvidia.torch_and_driver()
    assert (found.status, said in found.detail) == (status, True)


def test_a_driver_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update of it while the machine ran; the other checks go on without it."""

    def broken() -> None:
        raise nvidia.pynvml.NVMLError(nvidia.pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(nvidia, "driver", broken)
    found = nvidia.torch_and_driver()
    assert (found.status, "start the machine anew" in found.remedy) == ("fault", True)
    assert nvidia.cuda().status == nvidia.kernels().status == "ok"


@pytest.mark.parametrize(("capability", "status"), [((9, 0), "ok"), ((7, 5), "warning")])
def test_which_kernels_training_would_choose(
    on: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], status: str
) -> None:
    """By the card: one without bfloat16 is told of."""
    monkeypatch.setattr(devices, "has_fused_kernels", lambda: True)
    on("13.0", NEW._replace(cards=(("a card", capability),)))
    found = nvidia.kernels()
    assert (found.status, "variable-length kernel" in found.detail) == (status, status == "ok")


@pytest.mark.process
def test_a_gpu_that_torch_cannot_use_is_named(on: Callable[..., None]) -> None:
    """It is tried: here torch is built for the CPU, and says so."""
    on("13.0", NEW)
    found = nvidia.cuda()
    assert found.status == "fault"
    assert "Torch not compiled with CUDA enabled" in found.detail


def test_what_fits_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """How SmolLM3-3B can be trained in its memory, and at which length."""
    monkeypatch.setattr(devices, "detect", lambda: Device("cuda", "NVIDIA L4", 24 * 2**30, 5e13))
    found = doctor.memory()
    assert found.status == "ok"
    assert "full" not in found.detail
    assert "LoRA to 8,192 tokens, QLoRA to 8,192 tokens" in found.detail


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what can be done instead."""
    monkeypatch.setattr(devices, "detect", lambda: Device("cpu", "2 CPU cores", 2**30, 5e10))
    assert doctor.memory().remedy == "train builtin:tiny here, and SmolLM3-3B on a machine with more"


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is free, or by a write that fails although something is."""
    monkeypatch.setattr(devices, "free_disk", lambda _: 2**20)
    assert doctor.room(tmp_path / "runs").detail == f"the disk is full: 1.0 MiB free in {tmp_path}"

    def no_room(_: Path) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(devices, "free_disk", lambda _: 2**40)
    monkeypatch.setattr(disk, "speed", no_room)
    assert doctor.room(tmp_path).detail == f"{tmp_path} takes no more: a quota may be used up"


def test_no_room_for_a_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the Hub's client keeps what it downloads, which may be another disk."""
    monkeypatch.setattr(devices, "free_disk", lambda _: 2**30)
    assert doctor.cache().remedy == "make room, or set HF_HOME"


def test_a_check_that_fails_or_hangs_harms_no_other() -> None:
    """Of the one only the kind of its error is told: its text may hold what was sent."""
    never = threading.Event()

    def fails() -> Finding:
        raise ValueError("hf_secret")

    def hangs() -> Finding:
        never.wait()
        return Finding("ok", "")

    found = findings.examine({"a": fails, "b": hangs, "c": lambda: Finding("ok", "here")}, seconds=0.2)
    assert found["a"] == Finding("fault", "the check itself failed (ValueError)", "report it as a bug")
    assert found["b"].detail == "no answer within 0.2 s"
    assert found["c"].detail == "here"
    never.set()


@pytest.mark.process
@pytest.mark.parametrize(
    ("token", "status", "said", "remedy"),
    [
        ("hub", "ok", "answers", ""),
        ("none", "warning", "public models and datasets only", "set HF_TOKEN"),
        ("hf_write", "ok", "is of tester, in acme (write), readers (read); it may write", ""),
        ("hf_read", "warning", "it may only read", "make one that may write"),
        ("hf_fine", "ok", "fine-grained: it may write to tester/allowed, and nowhere else", ""),
        ("hf_revoked", "fault", "the Hub refuses HF_TOKEN", "make one at"),
        ("hf_a\u00e9", "fault", "holds characters that no token has", "copy it again"),
        ("space", "ok", "the Space tester/there is RUNNING", ""),
        ("no space", "ok", "not there yet; the first run makes it", ""),
    ],
)
def test_what_the_hub_lets_us_do(told: dict[str, Finding], token: str, status: str, said: str, remedy: str) -> None:
    """A token's owner and what it may do, by the Hub's own word; a Space is looked at, and not made."""
    found = told[token]
    assert (found.status, said in found.detail, remedy in found.remedy) == (status, True, True), found


@pytest.mark.process
def test_no_token_is_told(told: dict[str, Finding]) -> None:
    """Whatever was found out with it."""
    said = " ".join(finding.detail + finding.remedy for finding in told.values())
    assert not [token for token in TOKENS if token in said]


def test_a_server_that_is_away_is_named(environment: Callable[..., None]) -> None:
    """With its address, but no password in it; what hangs on it is no fault of its own."""
    environment(PREFECT_API_URL=f"http://me:secret@127.0.0.1:{free_port()}/api")
    found = doctor_command.prefect()
    assert found.status == "fault"
    assert "which does not answer" in found.detail
    assert "secret" not in str(found)
    assert doctor_command.workers().status == "warning"


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("", "ok", "kept on this machine"),
        ("off", "ok", "off (TRACKIO_SERVER_URL)"),
        ("http://me:secret@host", "fault", "TRACKIO_SERVER_URL is no address"),
    ],
)
def test_where_metrics_go(environment: Callable[..., None], target: str, status: str, said: str) -> None:
    """By the environment, as a run would; a secret in an address is not told."""
    environment(TRACKIO_SERVER_URL=target)
    found = services.trackio()
    assert (found.status, said in found.detail, "secret" in str(found)) == (status, True, False)


@pytest.mark.process
def test_the_command_ends_with_1_where_there_is_a_fault(tmp_path: Path) -> None:
    """Stdout is one JSON object with all checks, and no token is in it."""
    port = free_port()
    variables = {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "TRACKIO_SERVER_URL": f"http://127.0.0.1:{port}",
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": "hf_secret",
        "PREFECT_API_URL": "",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", "from flows import cli; cli.main()", "doctor", f"runs_dir={tmp_path}", "--json"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    checks: dict[str, Any] = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert {name for name, one in checks.items() if one["status"] == "fault"} == {"hub", "trackio"}
    assert all(one["remedy"] for one in checks.values() if one["status"] != "ok")
    assert "hf_secret" not in done.stdout + done.stderr
