from functools import partial
from types import SimpleNamespace

import pytest

from r2d2 import config
from r2d2.cluster.leaving import ASKED, STOPPED, TAGGED, TERMINATED, TIME_IS_UP, StopAsked
from r2d2.cluster.validations import is_drawn
from r2d2.cluster.worker import _Worker
from r2d2.training.state import State


def code(elapsed_s, limit, asked=0, rank_0=True):
    """What a worker tells the others after so many seconds."""
    worker = SimpleNamespace(
        stop=SimpleNamespace(code=asked, when="now") if rank_0 else None,
        training=config.Training(max_minutes=limit),
        state=State(elapsed_s=elapsed_s),
    )
    return _Worker._code(worker, 1)


def test_rank_0_tells_when_the_minutes_are_over_and_the_others_tell_nothing():
    assert code(59, 1.0) == 0 and code(60, 1.0) == TIME_IS_UP and code(1e9, None) == 0
    assert code(60, 1.0, rank_0=False) == 0
    assert ASKED[TIME_IS_UP].text == "training.max_minutes are over" and ASKED[TIME_IS_UP].evaluate


def test_some_validations_are_drawn_the_first_ones_and_the_last_whatever_their_number():
    drawn = {of: [number for number in range(1, of + 1) if is_drawn(number, of)] for of in (1, 5, 40, 20_000)}
    assert drawn[1] == [1] and drawn[5] == [1, 2, 3, 4, 5]
    assert drawn[40] == [1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert drawn[20_000][:6] == [1, 2, 4, 8, 16, 32] and drawn[20_000][-1] == 20_000 and len(drawn[20_000]) < 30


@pytest.mark.parametrize(("when", "steps"), [("now", [6, 7, 8, 9, 10]), ("epoch", [10]), ("checkpoint", [8, 10])])
def test_a_run_that_is_to_leave_later_goes_on_until_its_epoch_or_its_checkpoint_is_whole(when, steps):
    worker = SimpleNamespace(
        ring=SimpleNamespace(rank=0),
        writer=SimpleNamespace(idle=True),
        stop=SimpleNamespace(code=STOPPED, when=when),
        training=config.Training(checkpoints={"every_steps": 4, "every_minutes": None}),
        learner=SimpleNamespace(steps_per_epoch=10),
        last_save=0.0,
    )
    worker._save_is_due = partial(_Worker._save_is_due, worker)
    worker._leaves_with = partial(_Worker._leaves_with, worker)
    left = []
    worker.state = State()
    for step in range(6, 11):
        left += [step] * (_Worker._code(worker, step) == STOPPED)
    assert left == steps


@pytest.mark.parametrize(("when", "step", "leaves"), [("now", 10, True), ("epoch", 10, True), ("epoch", 30, False)])
def test_who_is_asked_to_leave_during_a_validation_leaves_at_its_end_if_there_is_more_to_train(when, step, leaves):
    worker = SimpleNamespace(
        ring=SimpleNamespace(rank=0, sum=lambda code, _: code),
        stop=SimpleNamespace(code=0, when=when),
        training=config.Training(early_stopping=None),
        experiment=SimpleNamespace(evaluation=SimpleNamespace(every_epochs=1)),
        learner=SimpleNamespace(steps_per_epoch=10, total_steps=30, end_epoch=lambda _: {"epoch": step / 10}),
        task=SimpleNamespace(teaches=False),
        state=State(step=step, epoch=step // 10),
    )
    for name in ("_count_time", "_save", "_report"):
        setattr(worker, name, lambda *_: None)
    worker._leaves_with, worker._code = (partial(method, worker) for method in (_Worker._leaves_with, _Worker._code))

    def validate():
        worker.stop.code = STOPPED
        return {}

    worker._validate = validate
    assert _Worker._end_epoch(worker) == (None, ASKED[STOPPED] if leaves else None)


@pytest.mark.parametrize(
    ("said", "expected"), [(TAGGED, STOPPED), (f"{TAGGED} epoch\nby ada", STOPPED), ("SIGTERM", TERMINATED)]
)
def test_the_driver_s_wish_to_stop_is_found_with_its_reason(tmp_path, said, expected):
    stop = StopAsked(tmp_path / "stop")
    try:
        assert stop.code == 0 and not stop.found.is_set()
        (tmp_path / "stop").write_text(said)
        assert stop.found.wait(timeout=10)
        assert stop.code == expected and stop.when == ("epoch" if "epoch" in said else "now")
    finally:
        stop.close()
