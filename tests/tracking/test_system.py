import time
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from r2d2.tracking import system
from r2d2.tracking.system import Sampler


@pytest.fixture
def no_gpus(monkeypatch):
    def absent():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)


def test_rates_are_differences_over_time(no_gpus, monkeypatch):
    clock, disk, network = [100.0], [0.0], [5e6]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: SimpleNamespace(read_bytes=disk[0], write_bytes=0))
    monkeypatch.setattr(psutil, "net_io_counters", lambda: SimpleNamespace(bytes_recv=network[0], bytes_sent=0))
    sampler = Sampler()
    clock[0], disk[0], network[0] = 104.0, 8e6, 25e6
    found = sampler.sample()
    assert found["disk_read_megabytes_per_second"] == 2 and found["network_receive_megabytes_per_second"] == 5
    assert found["disk_write_megabytes_per_second"] == 0
    clock[0] = 108.0
    assert sampler.sample()["disk_read_megabytes_per_second"] == 0
    assert 0 <= found["cpu_utilization_percentage"] <= 100 and 0 < found["system_memory_usage_percentage"] < 100


def test_what_a_machine_cannot_tell_is_absent(no_gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(system, "RAPL", tmp_path)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    sampler = Sampler()
    found = sampler.sample()
    assert not [name for name in found if name.startswith(("gpu", "disk_read"))]
    assert sampler.kwh() == {}


def rapl(folder, package, joules, largest=1000):
    for name in (f"intel-rapl:{package}", f"intel-rapl:{package}:0"):  # the second is a part of the first
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
        (folder / name / "max_energy_range_uj").write_text(f"{int(largest * 1e6)}\n")


def test_energy_is_counted_over_all_packages_also_when_a_counter_begins_anew(no_gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(system, "RAPL", tmp_path)
    rapl(tmp_path, 0, 100)
    rapl(tmp_path, 1, 900)
    sampler = Sampler()
    rapl(tmp_path, 0, 300)
    rapl(tmp_path, 1, 50)  # 150 J: 100 to its range, then 50
    assert sampler.kwh()["cpu"] == pytest.approx(350 / 3.6e6)
    rapl(tmp_path, 0, 310)
    assert sampler.kwh()["cpu"] == pytest.approx(360 / 3.6e6)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert sampler.kwh() == {}


def test_a_gpu_tells_load_memory_power_temperature_and_energy(monkeypatch):
    energy = [5_000_000]
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=2e9, total=8e9),
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=70),
        "nvmlDeviceGetPowerUsage": lambda gpu: 250_000,
        "nvmlDeviceGetTemperature": lambda gpu, kind: 61,
        "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: energy[0],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    sampler = Sampler()
    found = {name: value for name, value in sampler.sample().items() if name.startswith("gpu")}
    assert found == {
        "gpu_0_memory_usage_megabytes": 2000,
        "gpu_0_memory_usage_percentage": 25,
        "gpu_0_power_usage_watts": 250,
        "gpu_0_temperature_celsius": 61,
        "gpu_0_utilization_percentage": 70,
    }
    energy[0] += 3_600_000_000  # millijoules
    assert sampler.kwh()["gpu"] == pytest.approx(1.0)
