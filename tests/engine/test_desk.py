"""The desk: one errand after another, by a process beside, which may die."""

import gc
import os
import signal
import threading
import weakref
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
from helpers.processes import wait_for
from helpers.saved import ranges_of, save_model, small_network

from r2d2 import imgmed
from r2d2.engine import desk as desks
from r2d2.engine.looking import segmenting
from r2d2.engine.predict import predict
from r2d2.errors import WorkFailed
from r2d2.imgmed import Volume, write_volume


@pytest.fixture
def desk():
    made = desks.Desk()
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    ranges = ranges_of((9.0, 9.0, 9.0), (-1.0, 0.0, 1.0))
    return save_model(tmp_path_factory.mktemp("model") / "small", small_network(), ranges=ranges)


def test_errands_are_done_in_turn_and_told_how_many_are_ahead(desk):
    begun, go, order = threading.Event(), threading.Event(), []

    def slow(ask):
        begun.set()
        assert go.wait(30)
        order.append("first")
        return 1

    first = desk.hand_in(slow)
    assert begun.wait(30)
    second, third = (desk.hand_in(lambda ask, name=name: order.append(name)) for name in ("second", "third"))
    assert [one.ahead for one in (first, second, third)] == [0, 1, 2] and not first.over
    go.set()
    assert third.wait(30) and order == ["first", "second", "third"] and first.result == 1


def test_what_nobody_waits_for_any_more_is_dropped_with_all_that_it_holds(desk):
    begun, go, done = threading.Event(), threading.Event(), []
    first = desk.hand_in(lambda ask: begun.set() or go.wait(30))
    assert begun.wait(30)
    scan = np.zeros(1000)
    left = desk.hand_in(lambda ask, scan=scan: done.append(scan))
    last = desk.hand_in(lambda ask: done.append("last"))
    held = weakref.ref(scan)
    del left, scan
    gc.collect()
    assert held() is None and last.ahead == 1
    go.set()
    assert last.wait(30) and done == ["last"] and first.over


def test_a_desk_that_keeps_errands_does_them_also_where_nobody_waits():
    desk, go, done = desks.Desk(keeps=True), threading.Event(), threading.Event()
    desk.hand_in(lambda ask: go.wait(30))
    desk.hand_in(lambda ask: done.set())
    gc.collect()
    go.set()
    assert done.wait(30)


def test_a_full_queue_says_so(desk):
    go = threading.Event()
    held = [desk.hand_in(lambda ask: go.wait(30))]
    wait_for(lambda: not desk._waiting, 30)
    held += [desk.hand_in(lambda ask: None) for _ in range(desks.MOST_WAITING)]
    with pytest.raises(WorkFailed, match="8 others wait already"):
        desk.hand_in(lambda ask: None)
    go.set()
    assert held[-1].wait(30)


def test_a_desk_may_let_fewer_wait():
    desk, go = desks.Desk(most=1), threading.Event()
    held = [desk.hand_in(lambda ask: go.wait(30))]
    wait_for(lambda: not desk._waiting, 30)
    held.append(desk.hand_in(lambda ask: None))
    with pytest.raises(WorkFailed, match="1 others wait already"):
        desk.hand_in(lambda ask: None)
    go.set()
    assert held[-1].wait(30)


def test_errors_are_sentences_and_the_desk_goes_on(desk, capsys):
    def broken(ask):
        raise ZeroDivisionError("inside")

    for work, told in (
        (broken, "for a reason that is not yours"),
        (lambda ask: ask("check", path="/no/such/folder"), "/no/such/folder: no such folder of data"),
        (lambda ask: ask("no such verb"), "for a reason that is not yours"),
    ):
        errand = desk.hand_in(work)
        assert errand.wait(60) and told in errand.error and errand.result is None
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_scan_is_segmented_beside_and_a_killed_process_costs_one_errand(desk, model, tmp_path):
    rng = np.random.default_rng(0)
    scan = Volume(rng.normal(0, 1, (15, 18, 11)).astype(np.float32), np.diag([2.0, 1.5, 3.0, 1.0]))
    before = {*Path("/tmp").glob("r2d2-upload-*")}
    errand = desk.hand_in(segmenting(str(model), scan))
    assert errand.wait(120) and not errand.error, errand.error
    found = errand.result
    assert (errand.what, errand.done, errand.total) == ("Predicting", 11, 11)

    write_volume(scan, tmp_path / "scan.nii")
    expected = predict(str(model), [tmp_path / "scan.nii"], tmp_path / "mask.nii.gz")
    (tmp_path / "found.nii.gz").write_bytes(found.mask)
    mask, same = (imgmed.read_labels(tmp_path / name).data for name in ("found.nii.gz", "mask.nii.gz"))
    np.testing.assert_array_equal(mask, same)
    assert found.volumes_ml == expected.volumes_ml and sum(found.volumes_ml.values()) > 1
    assert found.warnings[0].startswith("spacing left-right 2 mm") and len(found.warnings) >= 3
    assert (found.shape, found.step) == ((15, 18, 11), (1, 1, 1))
    (tmp_path / "painted.nii.gz").write_bytes(found.painted)
    colours = np.asarray(nibabel.load(tmp_path / "painted.nii.gz").dataobj)
    assert found.classes == {"left": 1, "right": 2}
    for value, colour in ((0, (0, 0, 0, 0)), (1, (0, 114, 178, 255)), (2, (230, 159, 0, 255))):
        assert {tuple(one) for one in colours[mask == value].tolist()} == {colour}

    def kill(ask):
        os.kill(desk._process.pid, signal.SIGKILL)
        return ask("predict", model=str(model), scan=[str(tmp_path / "scan.nii")], output="/nowhere")

    beside = desk._process.pid
    psutil.Process(beside).suspend()  # so that it dies with the errand in hand
    errand = desk.hand_in(kill)
    assert errand.wait(60) and "ended in the middle" in errand.error
    assert {*Path("/tmp").glob("r2d2-upload-*")} <= before
    again = desk.hand_in(lambda ask: ask("check", path="/no/such/folder"))
    assert again.wait(60) and "no such folder" in again.error and desk._process.pid != beside


def test_the_process_beside_leaves_with_the_server():
    desk = desks.Desk()
    process = desk._running()
    process.stdin.close()
    assert process.wait(60) == 0
    desk.close()
