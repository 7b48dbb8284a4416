"""The GPU through NVML, with a fake library that answers like NVIDIA's; Linux drivers are in test_machines."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hybrid_llm.router.signals.gpu import GpuSource, find_nvml
from hybrid_llm.router.signals.source import Files
from tests.router.sensors.machines import LAPTOP, MIB, build


class FakeNvmlError(Exception):
    pass


class FakeNvml:
    """Cards as (load in percent, MiB free, MiB in all, degrees); None is what a card does not support."""

    NVMLError = FakeNvmlError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *cards, driver=True):
        self.cards, self.driver, self.open = cards, driver, 0

    def nvmlInit(self):  # noqa: N802
        self.supported(self.driver or None)
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return f"GPU-{handle}{handle}{handle}-abc"

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return SimpleNamespace(gpu=self.supported(self.cards[handle][0]), memory=0)

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        _, free, total, _ = self.cards[handle]
        return SimpleNamespace(free=self.supported(free) * MIB, total=self.supported(total) * MIB, used=0)

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self.supported(self.cards[handle][3])

    def supported(self, value):
        if value is None:
            raise FakeNvmlError("Not Supported")
        return value


BUSY, FREE, MIG = (90, 1000, 24576, 80), (10, 20000, 24576, 45), (None, 5000, 10000, None)


@pytest.fixture
def source(tmp_path):
    def make(nvml, visible="", files=None):
        return GpuSource(Files(build(tmp_path, files or {})), lambda: nvml, visible=visible or None)

    return make


def test_of_several_cards_the_one_with_the_most_free_memory_is_reported(source):
    nvml = FakeNvml(BUSY, FREE)
    gpu = source(nvml)
    assert gpu.read() == (0.1, 20000.0, 24576.0, 45.0)
    gpu.close()
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0", (0.9, 1000.0, 24576.0, 80.0)),
        ("GPU-000", (0.9, 1000.0, 24576.0, 80.0)),
        ("0,1", (0.1, 20000.0, 24576.0, 45.0)),
        ("MIG-123", (0.1, 20000.0, 24576.0, 45.0)),
        ("-1", (None,) * 4),
        ("7", (None,) * 4),
    ],
)
def test_only_cards_that_the_process_may_use_count(source, visible, expected):
    assert source(FakeNvml(BUSY, FREE), visible).read() == expected


def test_what_a_card_does_not_support_is_absent(source):
    assert source(FakeNvml(MIG)).read() == (None, 5000.0, 10000.0, None)


def test_without_a_driver_or_a_library_the_files_of_linux_are_read(source):
    for nvml in (FakeNvml(FREE, driver=False), None):
        assert source(nvml, files=LAPTOP).read() == (0.37, 3072.0, 4096.0, 52.0)


def test_the_library_of_the_extra_has_the_names_that_are_used():
    nvml = find_nvml()
    if nvml is None:
        pytest.skip("nvidia-ml-py is not installed: pip install 'hybrid-llm[gpu]'")
    for name in (*FakeNvml.__dict__, "NVMLError"):
        if name.startswith(("nvml", "NVML")):
            assert hasattr(nvml, name), name
