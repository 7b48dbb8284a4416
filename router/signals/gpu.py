"""Load, memory and temperature of the GPU: from NVML if `nvidia-ml-py` is installed, else from Linux drivers.

Of several GPUs the one with the most free memory is reported, since a model would be loaded there.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from hybrid_llm.router.signals.heat import celsius
from hybrid_llm.router.signals.source import MIB, Cached, Files, FileSource, Value, within

_DRM: Final = "sys/class/drm"
_DEVFREQ: Final = "sys/class/devfreq"
_THERMAL: Final = "sys/class/thermal"
_ADRENO: Final = "sys/class/kgsl/kgsl-3d0"
_TEGRA: Final = ("sys/devices/gpu.0", "sys/devices/platform/gpu.0")


class _Gpu(NamedTuple):
    """One GPU, as `GpuSource.signals` names it; None is what it does not report."""

    load: float | None = None
    available_mb: float | None = None
    total_mb: float | None = None
    temperature_c: float | None = None


def find_nvml() -> Any:
    """`pynvml` of the extra `gpu` (NVIDIA Management Library); None if it is not installed."""
    try:
        return importlib.import_module("pynvml")
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

    def __init__(self, files: Files, nvml: Callable[[], Any] = find_nvml, visible: str | None = None) -> None:
        """*visible* is `CUDA_VISIBLE_DEVICES`; default: that of the environment."""
        super().__init__(files)
        self._nvml = nvml
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        self._open: _Nvidia | None = None
        self._nvidia = Cached(self._start)
        self._drivers = Cached(lambda: tuple(self._search()))

    def _start(self) -> _Nvidia | None:
        """NVML, opened once; None without the library or a driver, or if the process may use no card."""
        if self._open is None and (self._visible is None or self._visible.strip() not in {"", "-1", "NoDevFiles"}):
            nvml = self._nvml()
            if nvml is not None:
                with suppress(nvml.NVMLError):
                    nvml.nvmlInit()
                    self._open = _Nvidia(nvml, self._visible or "")
        return self._open

    def read(self) -> tuple[Value, ...]:
        """Share of time busy, MiB free, MiB total, degrees Celsius."""
        nvidia = self._nvidia.get()
        gpus = list(nvidia.read()) if nvidia else []
        gpus = gpus or [read() for read in self._drivers.get()]
        return max(gpus, key=lambda gpu: gpu.available_mb or 0.0, default=_Gpu())

    def _search(self) -> Iterator[Callable[[], _Gpu]]:
        """A function that reads each GPU with a driver in the kernel."""
        for name in self._files.names(_DRM):
            folder = f"{_DRM}/{name}/device"
            if re.fullmatch(r"card\d+", name) and self._files.exists(f"{folder}/gpu_busy_percent"):
                yield partial(self._amd, folder)
        meter = next((meter for meter in self._meters() if self._files.exists(meter[0])), None)
        if meter:
            yield partial(self._embedded, *meter)

    def _amd(self, folder: str) -> _Gpu:
        """Kernel documentation, gpu/amdgpu: load in percent, memory in bytes."""
        total, used = (self._files.number(f"{folder}/mem_info_vram_{name}") for name in ("total", "used"))
        chips = [f"{folder}/hwmon/{chip}/temp1_input" for chip in self._files.names(f"{folder}/hwmon")]
        load, degrees = self._share(f"{folder}/gpu_busy_percent", 100.0), self._hottest(chips)
        if total is None or used is None or not 0 <= used <= total:
            return _Gpu(load, temperature_c=degrees)
        return _Gpu(load, (total - used) / MIB, total / MIB, degrees)

    def _meters(self) -> list[tuple[str, float]]:
        """The files that may hold the load, each with its value at full load: Adreno, Tegra (L4T) or devfreq."""
        frequency = [name for name in self._files.names(_DEVFREQ) if re.search(r"gpu|mali", name, re.IGNORECASE)]
        files = [(f"{_ADRENO}/gpu_busy_percentage", 100.0), *((f"{folder}/load", 1000.0) for folder in _TEGRA)]
        files += [(f"{_DEVFREQ}/{name}/device/load", 1000.0) for name in frequency]
        return files + [(f"{_DEVFREQ}/{name}/load", 100.0) for name in frequency]

    def _embedded(self, path: str, full: float) -> _Gpu:
        """A GPU that shares the machine's memory and has none of its own."""
        zones = (f"{_THERMAL}/{name}" for name in self._files.names(_THERMAL) if name.startswith("thermal_zone"))
        hot = [f"{zone}/temp" for zone in zones if "gpu" in (self._files.text(f"{zone}/type") or "").lower()]
        return _Gpu(self._share(path, full), temperature_c=self._hottest(hot))

    def _hottest(self, paths: list[str]) -> float | None:
        degrees = (celsius(self._files, path) for path in paths)
        return max((value for value in degrees if value is not None), default=None)

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

    def __init__(self, nvml: Any, visible: str) -> None:
        self._nvml = nvml
        self._visible = [name.strip() for name in visible.split(",") if name.strip()]

    def read(self) -> Iterator[_Gpu]:
        """One record for each card."""
        for index in range(self._ask(self._nvml.nvmlDeviceGetCount) or 0):
            handle = self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is not None and self._may_use(index, handle):
                yield self._card(handle)

    def _may_use(self, index: int, handle: Any) -> bool:
        """Whether CUDA_VISIBLE_DEVICES allows the card, by index or prefix of its UUID; names of MIG allow any card."""
        names = self._visible
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
