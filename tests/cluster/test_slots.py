"""Slots of a real Ray cluster of two nodes, one of which is lost while a run waits."""

import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
from helpers.processes import wait_for
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group

from r2d2 import config
from r2d2.cluster import placement, slots, tasks
from r2d2.cluster.placement import Placement, place
from r2d2.cluster.slots import Slots
from r2d2.errors import InputError

TWO = Placement(workers=2, cpus_per_worker=2, gpus_per_worker=0, nodes=2)


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_slots_are_of_the_nodes_that_are_there_and_of_what_nobody_holds(cluster, tmp_path):
    second = cluster.add_node(num_cpus=5)
    wait_for(lambda: slots.total(TWO) == 3, 60)  # 2 // 2 + 5 // 2
    wait_for(lambda: slots.look(TWO) == Slots(3, 3, True), 60)
    assert tasks.blind_hosts(tmp_path / "new", tmp_path) == []
    assert ray.get(ray.remote(num_cpus=0)(os.getenv).remote("CUDA_VISIBLE_DEVICES")) == ""  # by who has taken none
    assert len(tasks.blind_hosts(tmp_path, tmp_path / "missing")) == 2
    holder = placement_group([{"CPU": 4}])
    assert holder.wait(60)
    wait_for(lambda: slots.look(TWO) == Slots(3, 1, True), 60)
    cluster.remove_node(second)
    wait_for(lambda: slots.look(TWO) == Slots(1, 1, True), 60)

    told = []
    found = []

    def waiting():
        found.append(slots.wait(config.Cluster(workers=2), TWO, told.append, lambda: False))

    thread = threading.Thread(target=waiting)
    thread.start()
    wait_for(lambda: told, 60)
    assert told == ["for slots: the run needs 2, the cluster has 1"]
    cluster.add_node(num_cpus=2)
    thread.join(timeout=60)
    assert (found, told[1:]) == ([TWO], [""])


def looks(monkeypatch, *seen):
    """The cluster as it is found at every look, a second apart; as in the last one from then on."""
    left, clock = list(seen), SimpleNamespace(now=0.0)

    def look(_):
        return left.pop(0) if len(left) > 1 else left[0]

    def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(slots, "look", look)
    monkeypatch.setattr(slots, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


def wait(leave=lambda: False, **cluster):
    told = []
    found = slots.wait(config.Cluster(**cluster), TWO, told.append, leave)
    return found and found.workers, told


def test_all_the_workers_go_on_as_soon_as_there_is_room_for_them(monkeypatch):
    clock = looks(monkeypatch, Slots(2, 0, True), Slots(2, 1, True), Slots(2, 2, True))
    assert wait(workers=2) == (2, []) and clock.now == 2


def test_fewer_go_on_only_once_it_is_clear_that_there_are_no_more(monkeypatch):
    # A host that was cut off is taken for alive at first; then it is gone, and what it held is not missed.
    clock = looks(monkeypatch, Slots(3, 3, False), Slots(3, 1, False), Slots(3, 3, True))
    assert wait(workers=4, min_workers=2) == (3, []) and clock.now == 2


def test_what_is_given_back_late_is_waited_for_and_what_others_hold_is_left_to_ray(monkeypatch):
    clock = looks(monkeypatch, Slots(4, 1, True))
    assert wait(workers=4, min_workers=2) == (2, []) and clock.now == slots.SETTLE_S


def test_slots_that_no_node_has_are_waited_for_so_many_minutes(monkeypatch):
    clock = looks(monkeypatch, Slots(1, 1, True))
    with pytest.raises(slots.SlotsMissing, match=r"waited 0\.5 minutes for slots: the run needs 2, the cluster has 1"):
        wait(workers=2, wait_minutes=0.5)
    assert clock.now == 30


def test_who_is_asked_to_leave_waits_no_more(monkeypatch):
    clock = looks(monkeypatch, Slots(0, 0, True))
    assert wait(leave=lambda: clock.now >= 3, workers=2)[0] is None and clock.now == 3


def test_a_node_holds_as_many_workers_as_its_scarcer_resource(monkeypatch):
    with_gpus = replace(TWO, gpus_per_worker=1)
    assert [with_gpus.fit(*node) for node in ((8, 2), (4, 8), (1, 8), (8, 0))] == [2, 2, 0, 0]


@pytest.mark.parametrize(
    "workers, gpus, nodes, expected",
    [
        (1, None, [(8, 1)], (1, 8, 1)),
        (2, None, [(8, 1)], (2, 4, 0)),  # the GPU is not for one of the two alone
        (3, None, [(8, 2), (4, 2), (16, 0)], (3, 4, 1)),
        ((8, 4), None, [(16, 4)], (4, 4, 1)),  # as few as it may begin with have one each
        (1, None, [(8, None)], (1, 8, 0)),  # nobody has asked the node yet
        (2, 0, [(8, 2)], (2, 4, 0)),
        (1, 1, [(8, None)], (1, 8, 1)),
    ],
)
def test_workers_take_a_gpu_each_where_there_is_one_for_each(workers, gpus, nodes, expected):
    most, least = workers if isinstance(workers, tuple) else (workers, None)
    placed = place(config.Cluster(workers=most, min_workers=least, gpus_per_worker=gpus), nodes)
    assert (placed.workers, placed.cpus_per_worker, placed.gpus_per_worker) == expected


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error():
    with pytest.raises(InputError, match=r"workers=2 with 1 CPU, 1 GPU each: the cluster has slots for 1"):
        place(config.Cluster(workers=2, gpus_per_worker=1), [(8, 1)])


@pytest.mark.parametrize(("asked", "count", "gpus"), [(None, 1, 1), (1, 1, 1), (4, 4, 0)])
def test_rings_side_by_side_take_gpus_where_there_is_one_for_each_worker_of_all(monkeypatch, asked, count, gpus):
    monkeypatch.setattr(placement, "_nodes", lambda: [(16, 1)])
    placed, at_once = placement.side_by_side(config.Cluster(), 6, asked)
    assert (at_once, placed.gpus_per_worker) == (count, gpus)
