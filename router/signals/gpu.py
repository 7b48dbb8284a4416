"""Load, memory and temperature of the GPU: from NVML if `nvidia-ml-py` is installed, else from Linux drivers.

Of several GPUs the one with the most free memory is reported, since a model would be loaded there.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast

from hybrid_llm.router.signals.heat import celsius
from hybrid_llm.router.signals.source import MIB, Cached, Files, FileSource, Value, within

_DRM: Final = "sys/class/drm"
_DEVFREQ: Final = "sys/class/devfreq"
_THERMAL: Final = "sys/class/thermal"
_ADRENO: Final = "sys/class/kgsl/kgsl-3d0"
_TEGRA: Final = ("sys/devices/gpu.0", "sys/devices/platform/gpu.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gpu:
    """One GPU; None is what it does not report."""

    load: float | None = None
    available_mb: float | None = None
    total_mb: float | None = None
    temperature_c: float | None = None


class Nvml(Protocol):
    """The part of `pynvml` that is used (NVIDIA Management Library). Memory is in bytes, load in percent."""

    NVMLError: type[Exception]
    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> None: ...  # noqa: D102, N802
    def nvmlShutdown(self) -> None: ...  # noqa: D102, N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: D102, N802
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...  # noqa: D102, N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: D102, N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: D102, N802
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: D102, N802


def find_nvml() -> Nvml | None:
    """The library of the extra `gpu`; None if it is not installed."""
    try:
        return cast(Nvml, importlib.import_module("pynvml"))
    except ImportError:
        return None


class GpuSource(FileSource):
    """The GPU, through NVML or the files of its driver."""

    signals = (
        "device.gpu_load",
        "device.gpu_memory_available_mb",
        "device.gpu_memory_total_mb",
        "device.gpu_temperature_c",
    )
    every = 2.0

    def __init__(self, files: Files, nvml: Callable[[], Nvml | None] = find_nvml, visible: str | None = None) -> None:
        """*visible* is `CUDA_VISIBLE_DEVICES`; default: that of the environment."""
        super().__init__(files)
        self._nvml = nvml
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        self._open: _Nvidia | None = None
        self._nvidia = Cached(self._start)
        self._drivers = Cached(lambda: tuple(self._search()))

    def _start(self) -> _Nvidia | None:
        self._open = self._open or _Nvidia.start(self._nvml(), self._visible)
        return self._open

    def read(self) -> tuple[Value, ...]:
        """Share of time busy, MiB free, MiB total, degrees Celsius."""
        nvidia = self._nvidia.get()
        gpus = list(nvidia.read()) if nvidia else []
        gpus = gpus or [read() for read in self._drivers.get()]
        if not gpus:
            return (None,) * 4
        gpu = max(gpus, key=lambda gpu: gpu.available_mb or 0.0)
        return gpu.load, gpu.available_mb, gpu.total_mb, gpu.temperature_c

    def _search(self) -> Iterator[Callable[[], _Gpu]]:
        """A function that reads each GPU with a driver in the kernel."""
        for name in self._files.names(_DRM):
            folder = f"{_DRM}/{name}/device"
            if re.fullmatch(r"card\d+", name) and self._files.exists(f"{folder}/gpu_busy_percent"):
                yield partial(self._amd, folder)
        for path, full in self._meters():
            yield partial(self._embedded, path, full)

    def _amd(self, folder: str) -> _Gpu:
        """Kernel documentation, gpu/amdgpu: load in percent, memory in bytes."""
        total, used = (self._files.number(f"{folder}/mem_info_vram_{name}") for name in ("total", "used"))
        known = total is not None and used is not None and 0 <= used <= total
        chips = self._files.names(f"{folder}/hwmon")
        degrees = (celsius(self._files, f"{folder}/hwmon/{chip}/temp1_input") for chip in chips)
        return _Gpu(
            load=self._share(f"{folder}/gpu_busy_percent", 100.0),
            available_mb=(total - used) / MIB if known and total is not None and used is not None else None,
            total_mb=total / MIB if known and total is not None else None,
            temperature_c=max((value for value in degrees if value is not None), default=None),
        )

    def _meters(self) -> Iterator[tuple[str, float]]:
        """The file with the load, and its value at full load: Adreno, Tegra (L4T) or devfreq."""
        frequency = [name for name in self._files.names(_DEVFREQ) if re.search(r"gpu|mali", name, re.IGNORECASE)]
        files = [(f"{_ADRENO}/gpu_busy_percentage", 100.0), *((f"{folder}/load", 1000.0) for folder in _TEGRA)]
        files += [(f"{_DEVFREQ}/{name}/device/load", 1000.0) for name in frequency]
        files += [(f"{_DEVFREQ}/{name}/load", 100.0) for name in frequency]
        found = next((meter for meter in files if self._files.exists(meter[0])), None)
        if found:
            yield found

    def _embedded(self, path: str, full: float) -> _Gpu:
        """A GPU that shares the machine's memory and has none of its own."""
        zones = (f"{_THERMAL}/{name}" for name in self._files.names(_THERMAL) if name.startswith("thermal_zone"))
        hot = [zone for zone in zones if "gpu" in (self._files.text(f"{zone}/type") or "").lower()]
        degrees = [celsius(self._files, f"{zone}/temp") for zone in hot]
        return _Gpu(
            load=self._share(path, full),
            temperature_c=max((value for value in degrees if value is not None), default=None),
        )

    def _share(self, path: str, full: float) -> float | None:
        """The number at the start of *path*, as in `12`, `12 %` and `12@400000000Hz`, as a share of *full*."""
        text = self._files.text(path)
        if not text:
            return None
        number = re.match(r"\d{1,6}(?!\d)", text)
        share = within(int(number[0]) / full, 0.0, 1.0) if number else None
        if share is None:
            self._files.malformed(path)
        return share

    def close(self) -> None:
        """Close the files and NVML."""
        super().close()
        if self._open:
            self._open.close()


class _Nvidia:
    """The NVIDIA GPUs that this process may use; what a card does not report (MIG, old cards) is None."""

    def __init__(self, nvml: Nvml, visible: str | None) -> None:
        self._nvml = nvml
        self._visible = visible

    @classmethod
    def start(cls, nvml: Nvml | None, visible: str | None) -> _Nvidia | None:
        """Open NVML; None without the library or a driver, or if the process may use no card."""
        if nvml is None or (visible is not None and visible.strip() in {"", "-1", "NoDevFiles"}):
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        return cls(nvml, visible)

    def read(self) -> Iterator[_Gpu]:
        """One record for each card."""
        for index in range(self._ask(self._nvml.nvmlDeviceGetCount) or 0):
            handle = self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is not None and self._may_use(index, handle):
                yield self._card(handle)

    def _may_use(self, index: int, handle: Any) -> bool:
        """Whether CUDA_VISIBLE_DEVICES allows the card, by index or prefix of its UUID; names of MIG allow any card."""
        names = [name.strip() for name in (self._visible or "").split(",") if name.strip()]
        if not names or any(name.startswith("MIG") for name in names):
            return True
        uuid = str(self._ask(self._nvml.nvmlDeviceGetUUID, handle) or "")
        return any(name == str(index) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)

    def _card(self, handle: Any) -> _Gpu:
        rates = self._ask(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        degrees = self._ask(self._nvml.nvmlDeviceGetTemperature, handle, self._nvml.NVML_TEMPERATURE_GPU)
        return _Gpu(
            load=None if rates is None else within(rates.gpu / 100.0, 0.0, 1.0),
            available_mb=None if memory is None else memory.free / MIB,
            total_mb=None if memory is None else memory.total / MIB,
            temperature_c=None if degrees is None else within(float(degrees), -40.0, 150.0),
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def close(self) -> None:
        """Close NVML."""
        self._ask(self._nvml.nvmlShutdown)
