"""Tasks on a real Ray cluster."""

import os
from types import SimpleNamespace

import psutil
import pytest
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError

from r2d2 import config
from r2d2.cluster import placement, tasks
from r2d2.errors import InputError, WorkFailed


@pytest.fixture(scope="module")
def cluster():
    with placement.connected(config.Cluster(workers=1)) as placed:
        yield placed


def test_a_cluster_of_our_own_has_no_process_that_it_has_no_use_for(cluster):
    lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("raylet" in line for line in lines)
    assert not [line for line in lines for name in ("log_monitor", "dashboard", "monitor") if f"/{name}.py" in line]
    assert placement.REPORTS not in os.environ


def test_every_item_is_worked_on_once_by_other_processes(cluster):
    found = list(tasks.spread(lambda n: (os.getpid(), n * n), range(10)))
    assert sorted(result for _, result in found) == [n * n for n in range(10)]
    assert os.getpid() not in {process for process, _ in found}


def test_what_a_task_raises_is_raised_here(cluster):
    def refuse(path):
        raise InputError(f"{path}: truncated")

    with pytest.raises(InputError, match=r"scan\.nii: truncated"):
        list(tasks.spread(refuse, ["scan.nii"]))


def test_a_killed_task_is_one_line(cluster):
    with pytest.raises(WorkFailed, match="was killed") as caught:
        list(tasks.spread(lambda _: os.kill(os.getpid(), 9), [1, 2]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [OutOfMemoryError("a"), NodeDiedError("a"), ObjectLostError("00", None, "")])
def test_a_lost_node_and_memory_that_ran_out_are_one_line(error, monkeypatch):
    class Ray:
        def remote(self, **_):
            return lambda work: SimpleNamespace(remote=lambda item: item)

        def wait(self, pending):
            return pending[:1], pending[1:]

        def get(self, _):
            raise error

        def cancel(self, _):
            pass

    monkeypatch.setattr(tasks, "ray", Ray())
    with pytest.raises(WorkFailed, match=f"was killed .{type(error).__name__}.*run it again") as caught:
        list(tasks.spread(str, [1, 2]))
    assert "\n" not in str(caught.value)
