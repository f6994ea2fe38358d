"""What is known of the device: its kind, its memory, and the peak of cards whose data sheet says it."""

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from smollm3_ft import devices


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX 6000 Ada Generation", 364),
        ("Tesla T4", 65),
    ],
)
def test_the_peak_of_a_card(name: str, tera: float) -> None:
    """A card is known by the name that its driver gives it."""
    assert devices.peak_flops(name) == tera * 1e12


@pytest.mark.parametrize(
    "name",
    ["2 CPU cores", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA H100 MIG 1g.10gb", "X1"],
)
def test_an_unknown_card_has_no_peak(name: str) -> None:
    """No share of a peak is told where the peak is not known."""
    assert devices.peak_flops(name) is None


@pytest.mark.parametrize(("name", "flops"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA X1", 50e12)])
def test_a_gpu_is_found_by_its_driver(monkeypatch: pytest.MonkeyPatch, name: str, flops: float) -> None:
    """A GPU counts with its whole memory and the usual share of its peak, or of a modest one where none is known."""

    @contextmanager
    def one_card() -> Iterator[list[Any]]:
        yield ["a handle"]

    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.13.0+cu130")
    monkeypatch.setattr(devices, "driver", one_card)
    monkeypatch.setattr(devices.pynvml, "nvmlDeviceGetName", lambda _: name)
    monkeypatch.setattr(devices.pynvml, "nvmlDeviceGetMemoryInfo", lambda _: SimpleNamespace(total=80 * 2**30))
    found = devices.detect()
    assert (found.kind, found.name, found.memory) == ("cuda", name, 80 * 2**30)
    assert found.flops == flops * devices.USUAL_SHARE
    assert found.fused == devices.has_fused_kernels()


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, ["card 0", "card 1", "card 2"]),
        ("2,0", ["card 2", "card 0"]),
        ("GPU-b", ["card 1"]),
        ("1,7,0", ["card 1"]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_cards_that_a_training_sees(monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: list[str]) -> None:
    """Those that CUDA_VISIBLE_DEVICES names, by number or UUID, in its order, up to one that there is not."""
    cards = {0: "card 0", 1: "card 1", 2: "card 2", "GPU-a": "card 0", "GPU-b": "card 1", "GPU-c": "card 2"}

    def find(name: int | str) -> str:
        if name not in cards:
            raise devices.pynvml.NVMLError(devices.pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return cards[name]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(devices.pynvml, name, lambda: None)
    monkeypatch.setattr(devices.pynvml, "nvmlDeviceGetCount", lambda: 3)
    for name in ("nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID"):
        monkeypatch.setattr(devices.pynvml, name, find)
    with devices.driver() as handles:
        assert handles == seen
