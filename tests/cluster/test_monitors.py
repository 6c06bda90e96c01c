"""Monitors on a real Ray cluster of two nodes, which comes to be while they watch and loses one."""

import pytest
import ray
from helpers.processes import wait_for
from ray.cluster_utils import Cluster

from r2d2.cluster import monitors
from r2d2.cluster.monitors import Monitors
from r2d2.cluster.placement import Placement
from r2d2.tracking.outbox import Outbox, entries


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def recorded(folder):
    """Every metric that was written down: name -> [(step, value)]."""
    found, path = {}, folder / "driver-1.jsonl"
    for entry, _ in entries(path, 0) if path.exists() else ():
        for name, value in entry["values"].items():
            found.setdefault(name, []).append((entry["step"], value))
    return found


def load_of(folder):
    """The nodes of which a CPU load was written down, and how often."""
    loads = {name: steps for name, steps in recorded(folder).items() if name.endswith("/cpu_utilization_percentage")}
    return {name.split("/")[1]: len(steps) for name, steps in loads.items()}


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_every_node_has_a_monitor_and_a_series_of_its_own_for_as_long_as_it_is_there(tmp_path, cluster):
    monitors = Monitors(0.2, Outbox(tmp_path, "driver-1"), 0.0, Placement(2, 3, 0, 1), {"cost/cpu_hours": 1.0})
    try:
        wait_for(lambda: [*load_of(tmp_path).values()] and max(load_of(tmp_path).values()) >= 3, 60)
        assert len(load_of(tmp_path)) == 1
        second = cluster.add_node(num_cpus=1)
        wait_for(lambda: len(load_of(tmp_path)) == 2 and min(load_of(tmp_path).values()) >= 3, 60)
        cluster.remove_node(second)
        before = load_of(tmp_path)
        wait_for(lambda: max(load_of(tmp_path).values()) >= max(before.values()) + 5, 60)
    finally:
        monitors.close(dice=0.5)
    monitors.close()  # the driver does, whatever happened
    found = recorded(tmp_path)
    hours = [value for _, value in found["cost/cpu_hours"]]
    assert hours == sorted(hours) and 1.0 < hours[-1] < 1.0 + 6 * 200 / 3600
    assert "cost/gpu_hours" not in found and "cost/gpu_kwh" not in found
    assert found["cost/cpu_hours_per_dice_point"][-1][1] == pytest.approx(hours[-1] / 50)
    assert any(name.endswith("/system_memory_usage_percentage") for name in found)


def test_without_an_interval_only_the_hours_are_counted(tmp_path):
    Monitors(None, Outbox(tmp_path, "driver-1"), 0.0, Placement(4, 1, 1, 1), {}).close()
    assert sorted(recorded(tmp_path)) == ["cost/cpu_hours", "cost/gpu_hours"]


def test_costs_are_of_the_workers_that_the_run_held_at_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(monitors.time, "monotonic", lambda: clock[0])
    watch = Monitors(None, Outbox(tmp_path, "driver-1"), 0.0, Placement(4, 2, 1, 2), {})
    for seconds, workers in ((3600, 0), (7200, 3), (3600, 3)):  # four for an hour, none for two, three for an hour
        clock[0] += seconds
        watch.hold(workers)
    watch.close()
    found = recorded(tmp_path)
    assert [value for _, value in found["cost/gpu_hours"]] == [4 * 1 + 3 * 1]
    assert [value for _, value in found["cost/cpu_hours"]] == [2 * (4 * 1 + 3 * 1)]
