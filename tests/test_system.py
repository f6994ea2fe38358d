"""The machine is sampled as it is, as often as asked, and once more at the end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from smollm3_ft import journal, system
from smollm3_ft.journal import Journal


def test_a_sample(tmp_path: Path) -> None:
    """A sample has CPU, memory and disk, in percent and bytes that can be."""
    values = system.sample(tmp_path, [])
    assert 0 <= values["cpu_percent"] <= 100
    assert 0 < values["memory_bytes"] < psutil.virtual_memory().total
    assert 0 < values["memory_percent"] < 100
    assert 0 < values["disk_free_bytes"] < psutil.disk_usage(str(tmp_path)).total


@pytest.fixture
def host(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "host.jsonl", "r")


def test_the_end_is_sampled(tmp_path: Path, host: Journal) -> None:
    """However short a run, there is a sample of it."""
    stop = threading.Event()
    stop.set()
    assert system.watch(host, tmp_path, 60, stop) == 1
    host.close()
    assert [record.kind for record in journal.read(tmp_path / "host.jsonl")] == ["system"]


def test_samples_come_at_intervals(tmp_path: Path, host: Journal) -> None:
    """Samples are written while the run goes on, numbered, with the time and no step."""
    stop = threading.Event()
    watching = threading.Thread(target=system.watch, args=(host, tmp_path, 0.02, stop))
    watching.start()
    for _ in range(1000):
        if len(journal.read(tmp_path / "host.jsonl")) >= 3:
            break
        stop.wait(0.01)
    stop.set()
    watching.join()
    host.close()
    records = journal.read(tmp_path / "host.jsonl")
    assert len(records) > 3
    assert [record.id for record in records] == [f"r:system:{n + 1}" for n in range(len(records))]
    assert [record.step for record in records] == [None] * len(records)
    assert sorted(record.time for record in records) == [record.time for record in records]


def test_traffic_is_told_a_second(tmp_path: Path, host: Journal) -> None:
    """Of network and disks, the bytes since the sample before by the seconds between them."""
    before, now = (
        {"at": 10.0, "network_sent": 5e6, "disk_read": 7e6},
        {"at": 12.0, "network_sent": 6e6, "disk_read": 0.0},
    )
    assert system.rates(before, now) == {"network_sent_bytes_per_second": 5e5, "disk_read_bytes_per_second": 0.0}
    stop = threading.Event()
    stop.set()
    system.watch(host, tmp_path, 60, stop)
    host.close()
    (record,) = journal.read(tmp_path / "host.jsonl")
    assert {f"{name}_bytes_per_second" for name in system.traffic() if name != "at"} < set(record.values)


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    """The disk of a run is that of the nearest folder there is."""
    free = system.sample(tmp_path / "not" / "yet", [])["disk_free_bytes"]
    assert free == pytest.approx(system.sample(tmp_path, [])["disk_free_bytes"], rel=0.01)


def test_a_card_that_cannot_tell_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its driver does not know is left out, and the rest is there."""

    def unknown(*_: object) -> None:
        raise system.pynvml.NVMLError_NotSupported

    monkeypatch.setattr(system.pynvml, "nvmlDeviceGetUtilizationRates", unknown)
    monkeypatch.setattr(system.pynvml, "nvmlDeviceGetMemoryInfo", lambda _: SimpleNamespace(used=2**30))
    monkeypatch.setattr(system.pynvml, "nvmlDeviceGetPowerUsage", lambda _: 350_000)
    monkeypatch.setattr(system.pynvml, "nvmlDeviceGetTemperature", unknown)
    values = system.sample(tmp_path, ["a handle"])
    found = {name: value for name, value in values.items() if name.startswith("gpu")}
    assert found == {"gpu0_memory_bytes": 2**30, "gpu0_watts": 350.0}


def test_only_the_cards_in_use_are_sampled(tmp_path: Path, host: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cards that are seen, as many as there are processes that train."""

    @contextmanager
    def eight() -> Iterator[list[int]]:
        yield list(range(8))

    monkeypatch.setattr(system.devices, "driver", eight)
    monkeypatch.setattr(system, "_gpu", lambda handle: {"percent": float(handle)})
    stop = threading.Event()
    stop.set()
    system.watch(host, tmp_path, 60, stop, processes=2)
    host.close()
    (record,) = journal.read(tmp_path / "host.jsonl")
    assert [name for name in record.values if name.startswith("gpu")] == ["gpu0_percent", "gpu1_percent"]
