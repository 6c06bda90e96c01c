"""What people watch: nodes with their last minutes, also when the cluster goes away; runs that are in trouble."""

import contextlib
import dataclasses
import os
import socket

import pytest
from helpers.processes import wait_for

from r2d2.engine import watch
from r2d2.errors import InputError
from r2d2.tracking import queries
from r2d2.tracking.queries import Point, RunView
from r2d2.tracking.shared import Answer

NOW = 10_000.0


@pytest.fixture
def nodes(monkeypatch):
    monkeypatch.setattr(watch, "EVERY_S", 0.02)
    monkeypatch.setattr(watch, "UNWATCHED_S", 0.2)
    found = watch._Watch()
    yield found
    wait_for(lambda: found._thread is None, 10)  # nobody has asked for a while: it has ended


def test_without_a_cluster_this_machine_is_watched_with_its_last_minutes(nodes):
    assert not watch.clustered()

    def two_looks():
        (node,) = nodes.answer().value
        return len(node.loads) >= 2 and node

    node = wait_for(two_looks, 20)
    assert node.name == socket.gethostname() and f"{len(os.sched_getaffinity(0))} CPU" in node.about
    last = node.loads[-1]
    assert 0 <= last.cpu <= 100 and 0 < last.memory < 100 and 0 < last.disk < 100 and last.network_mb_s >= 0
    assert nodes.answer().value is nodes.answer().value or len(nodes.answer().value) == 1


def test_what_was_known_of_a_cluster_stays_while_it_is_away_and_it_comes_back_by_itself(nodes, monkeypatch):
    state = {"away": False}
    summary = [
        {
            "hostname": "gpu-1",
            "ip": "10.0.0.1",
            "cpu": 37.5,
            "mem": [64e9, 32e9, 50.0, 32e9],
            "disk": {"/": {"percent": 12.0}},
            "diskIoSpeed": [1e6, 2e6, 3.0, 4.0],
            "networkSpeed": [4e6, 5e6],
            "gpus": [{"utilizationGpu": 80, "memoryUsed": 10, "memoryTotal": 40}],
            "raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 8.0, "GPU": 1.0}, "isHeadNode": True},
        },
        {"hostname": "gpu-2", "ip": "10.0.0.2", "raylet": {"state": "DEAD", "resourcesTotal": {"CPU": 8.0}}},
    ]

    def cluster():
        def look():
            if state["away"]:
                raise InputError("no cluster answers there")
            return [watch._seen(node) for node in summary]

        return look

    monkeypatch.setattr(watch, "clustered", lambda: True)
    monkeypatch.setattr(watch, "_cluster", cluster)
    first, second = nodes.answer().value
    assert (first.name, first.about, first.alive) == ("gpu-1 (10.0.0.1)", "8 CPUs, 1 GPU, head", True)
    load = first.loads[0]
    assert (load.cpu, load.memory, load.disk, load.gpu, load.gpu_memory) == (37.5, 50.0, 12.0, 80.0, 25.0)
    assert (load.disk_mb_s, load.network_mb_s) == (3.0, 9.0)
    assert not second.alive and second.loads == ()
    state["away"] = True
    away = wait_for(lambda: (answer := nodes.answer()).problem and answer, 10)
    assert away.problem == "no cluster answers there" and away.value[0].name == first.name
    state["away"] = False
    wait_for(lambda: not nodes.answer().problem, 10)


def test_whatever_a_cluster_answers_the_nodes_are_watched_on_and_what_is_old_says_so(nodes, monkeypatch):
    looks = iter([TypeError("'NoneType' object is not subscriptable")])

    def here():
        def look():
            for error in looks:
                raise error
            return [("one", "1 CPU", True, None)]

        return look

    monkeypatch.setattr(watch, "_here", here)
    (node,) = wait_for(lambda: known(nodes), 10).value
    assert node.name == "one"
    monkeypatch.setattr(watch, "LATE_S", -1.0)
    assert nodes.answer().problem == "the nodes do not answer"


def known(nodes):
    with contextlib.suppress(InputError):
        return nodes.answer()


def run(metrics=(), params=(), status="RUNNING", **tags):
    latest = {name: Point(1, at, value) for name, at, value in metrics}
    settings = {"tracking.monitor_s": "10"} | dict(params)
    return RunView("1", "0", "lesion", status, NOW - 1000, None, tags, settings, latest, None, (), None)


def kinds(one):
    return [(trouble.kind, trouble.text) for trouble in watch.troubles([one], NOW)]


def test_a_run_in_trouble_is_told_with_what_is_wrong_the_worst_first():
    fast = [("time/input_s", NOW, 1.0), ("time/compute_s", NOW, 18.0), ("time/communication_s", NOW, 1.0)]
    epoch = [("train/loss", NOW - 5, 0.5), ("time/epoch_s", NOW - 5, 20.0)]
    assert kinds(run([*fast, *epoch])) == []
    slow = [("time/input_s", NOW, 10.0), *fast[1:], *epoch]
    ((kind, text),) = kinds(run(slow))
    assert kind == "slow" and text.startswith("Waiting for images took 34% of the time (62% compute, ")
    (first, second) = kinds(
        run(slow, **{"sentinel.1": "the loss is NaN", "sentinel.2": "the loss grew; back to step 5"})
    )
    assert first == ("diverging", "It fell apart 2 times: the loss grew; back to step 5.") and second[0] == "slow"
    assert kinds(run(epoch, waiting="for slots: the run needs 4, the cluster has 2")) == [
        ("waiting", "It waits for slots: the run needs 4, the cluster has 2.")
    ]
    assert kinds(run(slow, status="FAILED", **{"sentinel.1": "x"})) == []


def test_what_somebody_else_wrote_onto_a_run_takes_no_warning_away():
    epoch = [("train/loss", NOW - 500, 0.5), ("time/epoch_s", NOW - 500, 20.0)]
    silent = run(epoch, {"tracking.monitor_s": "None"})  # `null`, as it is recorded
    assert [kind for kind, _ in kinds(silent)] == ["stalled"]
    parts = [(f"time/{name}_s", NOW, 1.0) for name in ("input", "compute", "communication")]
    odd = run([*parts, ("train/loss", NOW, 0.5)], since="yesterday")
    assert [trouble.run for trouble in watch.troubles([odd, silent], NOW)] == [silent]


def test_a_run_of_which_nothing_is_heard_for_long_has_stalled():
    patience = watch.STALLED_S + 5 * 20.0 + 3 * 10.0

    def heard(seconds_ago, monitor_ago=None):
        told = [("train/loss", NOW - seconds_ago, 0.5), ("time/epoch_s", NOW - seconds_ago, 20.0)]
        return kinds(run([*told, *([("cost/cpu_hours", NOW - monitor_ago, 1.0)] if monitor_ago is not None else [])]))

    assert heard(patience - 1) == []
    ((kind, text),) = heard(patience + 1)
    assert kind == "stalled" and "Nothing has been heard of it" in text
    ((kind, text),) = heard(patience + 1, monitor_ago=1)  # its nodes live, its workers do not get on
    assert kind == "stalled" and "of its training" in text


def test_a_test_of_many_slices_has_not_stalled_for_as_long_as_it_may_take():
    told = [("train/loss", NOW - 900, 0.5), ("time/epoch_s", NOW - 900, 20.0), ("time/images_per_s", NOW - 900, 50.0)]
    alive = [("cost/cpu_hours", NOW - 1, 1.0)]
    assert [kind for kind, _ in kinds(run([*told, *alive]))] == ["stalled"]
    assert kinds(run([*told, *alive], evaluating=f"{NOW - 890} 10000")) == []
    assert [kind for kind, _ in kinds(run([*told, *alive], evaluating=f"{NOW - 890} 1000"))] == ["stalled"]
    assert [kind for kind, _ in kinds(run([*told, *alive], evaluating=f"{NOW - 950} 10000"))] == ["stalled"]
    ((_, text),) = kinds(run(told, evaluating=f"{NOW - 890} 10000"))  # its nodes are silent
    assert "Nothing has been heard of it" in text


def test_what_cannot_be_heard_of_yet_has_not_stalled(monkeypatch):
    null = {"tracking.monitor_s": "None"}
    assert kinds(run(params=null)) == []  # its first epoch may take hours
    assert [kind for kind, _ in kinds(run())] == ["stalled"]
    trial = dataclasses.replace(run(trial="3"), parent="0")  # whose sweep watches the nodes
    assert kinds(trial) == []
    yesterday = [("train/loss", NOW - 80_000, 0.5), ("time/epoch_s", NOW - 80_000, 20.0)]
    assert [kind for kind, _ in kinds(run(yesterday, null))] == ["stalled"]
    assert kinds(run(yesterday, null, since=NOW - 60)) == []  # it was resumed a minute ago


def test_a_study_is_heard_of_by_its_runs(monkeypatch):
    study, parts = run(scale="1, 2"), []
    monkeypatch.setattr(queries, "parts", lambda _: Answer(parts, 0.0))
    assert kinds(study) == []
    alive = [("system/node-1/cpu", NOW - 5, 50.0)]
    parts.append(dataclasses.replace(run(alive), parent="1"))
    assert kinds(study) == []
    parts[0] = dataclasses.replace(run([("system/node-1/cpu", NOW - 900, 50.0)]), parent="1")
    assert [kind for kind, _ in kinds(study)] == ["stalled"]
    parts[0] = dataclasses.replace(run(status="FINISHED"), parent="1", ended=NOW - 300)  # the next one is prepared
    assert kinds(study) == []
    parts[0] = dataclasses.replace(parts[0], began=NOW - 600, ended=NOW - 500)
    assert "its next run" in kinds(study)[0][1]
