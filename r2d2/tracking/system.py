"""A node's load and energy, as they are sampled while a run goes on. Names are MLflow's where it has one."""

import contextlib
import time
from pathlib import Path

import psutil
import pynvml

RAPL = Path("/sys/class/powercap")
MEGABYTE = 1e6
JOULES_A_KWH = 3.6e6


class Sampler:
    """Samples this machine: what a rate or an energy is counted from is its making."""

    def __init__(self) -> None:
        self._gpus = _gpus()
        self._mark = time.monotonic()
        self._before = self._counters()
        self._cpu_joules, self._gpu_joules = _Counted(_rapl()), _Counted(self._gpu_energy())
        psutil.cpu_percent()  # the first call has nothing to compare with

    def sample(self) -> dict[str, float]:
        """The present load by name; rates since the last call. What this machine cannot tell is absent."""
        now, counters = time.monotonic(), self._counters()
        seconds = max(now - self._mark, 1e-3)
        found = {
            # A device that is taken away takes what it has counted with it.
            f"{name}_megabytes_per_second": max(0.0, counters[name] - self._before[name]) / MEGABYTE / seconds
            for name in counters.keys() & self._before.keys()
        }
        self._mark, self._before = now, counters
        memory = psutil.virtual_memory()
        found |= {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": (memory.total - memory.available) / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": psutil.disk_usage("/").percent,
        }
        for number, gpu in enumerate(self._gpus):
            with contextlib.suppress(pynvml.NVMLError):
                held = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                found[f"gpu_{number}_memory_usage_percentage"] = 100 * held.used / held.total
                found[f"gpu_{number}_memory_usage_megabytes"] = held.used / MEGABYTE
            with contextlib.suppress(pynvml.NVMLError):
                found[f"gpu_{number}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            with contextlib.suppress(pynvml.NVMLError):
                found[f"gpu_{number}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
            with contextlib.suppress(pynvml.NVMLError):
                found[f"gpu_{number}_temperature_celsius"] = pynvml.nvmlDeviceGetTemperature(
                    gpu, pynvml.NVML_TEMPERATURE_GPU
                )
        return {name: float(value) for name, value in sorted(found.items())}

    def kwh(self) -> dict[str, float]:
        """Energy since the making: of the processors (`cpu`, by RAPL) and of the GPUs (`gpu`, by NVML).

        What cannot be read is absent. To be called more often than RAPL's counters run over, which takes minutes.
        """
        found = {"cpu": self._cpu_joules.since(_rapl()), "gpu": self._gpu_joules.since(self._gpu_energy())}
        return {name: joules / JOULES_A_KWH for name, joules in found.items() if joules is not None}

    def _counters(self) -> dict[str, float]:
        disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
        found: dict[str, float] = {}
        if disk:
            found |= {"disk_read": float(disk.read_bytes), "disk_write": float(disk.write_bytes)}
        if network:
            found |= {"network_receive": float(network.bytes_recv), "network_transmit": float(network.bytes_sent)}
        return found

    def _gpu_energy(self) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        for number, gpu in enumerate(self._gpus):
            with contextlib.suppress(pynvml.NVMLError):
                found[str(number)] = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000, 0.0
        return found if len(found) == len(self._gpus) else {}


class _Counted:
    """Sums up counters that may run over: each a value and the range after which it begins anew."""

    def __init__(self, counters: dict[str, tuple[float, float]]) -> None:
        self._last, self._sum = counters, 0.0

    def since(self, counters: dict[str, tuple[float, float]]) -> float | None:
        if not self._last or counters.keys() != self._last.keys():
            return None
        for name, (value, range_) in counters.items():
            more = value - self._last[name][0]
            self._sum += more if more >= 0 else more + range_
        self._last = counters
        return self._sum


def _rapl() -> dict[str, tuple[float, float]]:
    """The energy counters of the processors' packages and their ranges, in joules; none if one cannot be read."""
    found = {}
    try:
        for zone in RAPL.glob("intel-rapl:*"):
            if zone.name.count(":") == 1:  # deeper zones are parts of these
                energy, largest = (int((zone / file).read_text()) for file in ("energy_uj", "max_energy_range_uj"))
                found[zone.name] = energy / 1e6, largest / 1e6
    except (OSError, ValueError):
        return {}
    return found


def _gpus() -> list:
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
