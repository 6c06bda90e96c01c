import contextlib
import json
import os

import keras
import numpy as np
import pytest

from r2d2.errors import InputError
from r2d2.training.state import Checkpoints, Seconds, State, Superseded, Watched, Writer, restore


@pytest.fixture
def variables():
    """A network's variables with a random state among them, and an optimizer's after a step."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    return [*model.variables, *optimizer.variables]


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "run")
    made.begin_attempt(made.take_over())
    return made


def _state(epoch, best_epoch):
    history = [{"epoch": float(number), "train/loss": 1.0 / number} for number in range(1, epoch + 1)]
    return State(
        epoch=epoch,
        step=10 * epoch,
        loss_sum=1 / 3,
        best_score=0.5,
        best_epoch=best_epoch,
        best_step=10 * best_epoch,
        history=history,
        epoch_s=Seconds(0.1, 0.2, 0.3),
        watched=Watched(loss=0.7, least_loss=1 / 7),
    )


def _values(variables):
    return [np.array(variable.value) for variable in variables]


def test_a_restored_checkpoint_is_the_saved_one_to_the_last_bit(checkpoints, variables):
    saved, state = _values(variables), _state(3, 3)
    assert any("seed_generator" in variable.path for variable in variables), "the random states are among them"
    checkpoints.save(state, _values(variables))
    for variable in variables:
        variable.assign(keras.ops.zeros_like(variable))
    assert restore(checkpoints.latest(), variables) == state
    for before, after in zip(saved, _values(variables), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_latest_two_and_the_best_stay(checkpoints, variables):
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        checkpoints.save(_state(epoch, best), _values(variables))
    assert sorted(path.name for path in (checkpoints.folder / "checkpoints").iterdir()) == [
        "step-00000040",
        "step-00000050",
    ]
    assert [path.name for path in (checkpoints.folder / "best").iterdir()] == ["step-00000020"]
    assert restore(checkpoints.best(_state(5, 2)), variables).epoch == 2


def test_an_attempt_that_a_newer_one_replaced_cannot_write(checkpoints, variables):
    checkpoints.save(_state(1, 1), _values(variables))
    newer = Checkpoints(checkpoints.run_folder)
    assert newer.begin_attempt(newer.take_over(checkpoints.owner)) == checkpoints.number + 1
    assert checkpoints.superseded and not newer.superseded
    with pytest.raises(Superseded):
        checkpoints.save(_state(2, 2), _values(variables))
    assert newer.latest().name == "step-00000010"
    newer.save(_state(2, 2), _values(variables))
    assert newer.latest().name == "step-00000020"
    assert [path.name for path in newer.run_folder.iterdir()] == ["attempt-0001"]


@pytest.mark.parametrize("done", range(12))
def test_an_attempt_that_is_replaced_in_the_middle_of_a_write_leaves_nothing_in_the_newer_one(
    checkpoints, variables, monkeypatch, done
):
    checkpoints.save(_state(1, 1), _values(variables))
    checkpoints.save(_state(2, 2), _values(variables))
    newer, seen = Checkpoints(checkpoints.run_folder), []

    def then_replaced(change):
        def changed(*arguments, **named):
            seen.append(change.__name__)
            if len(seen) == done + 1:
                newer.begin_attempt(newer.take_over(checkpoints.owner))
                seen.append(_files(newer.run_folder))
            return change(*arguments, **named)

        return changed

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir", "replace", "rename", "mkdir", "open"):
            patch.setattr(os, name, then_replaced(getattr(os, name)))
        with contextlib.suppress(Superseded):
            checkpoints.save(_state(3, 3), _values(variables))
    (before,) = [one for one in seen if isinstance(one, dict)]
    assert _files(newer.run_folder) == before
    latest = restore(newer.latest(), variables)
    assert restore(newer.best(latest), variables).epoch == latest.best_epoch in (2, 3)


def _files(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_driver_that_another_one_replaced_cannot_begin_again(checkpoints, variables):
    checkpoints.save(_state(1, 1), _values(variables))
    newer = Checkpoints(checkpoints.run_folder)
    owner = newer.take_over()
    with pytest.raises(Superseded, match="another driver"):
        Checkpoints(checkpoints.run_folder).begin_attempt(checkpoints.owner)
    with pytest.raises(Superseded, match="another driver"):
        checkpoints.take_over(checkpoints.owner)
    with pytest.raises(Superseded):
        checkpoints.save(_state(2, 2), _values(variables))
    assert newer.begin_attempt(owner) == 1


def test_an_interrupted_write_leaves_the_checkpoint_before_it(checkpoints, variables, monkeypatch):
    checkpoints.save(_state(1, 1), _values(variables))
    before = (checkpoints.latest() / "state.json").read_text()

    def full_disk(*arguments, **named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(_state(2, 2), _values(variables))
    assert checkpoints.latest().name == "step-00000010"
    assert (checkpoints.latest() / "state.json").read_text() == before
    checkpoints.save(_state(2, 2), _values(variables))
    assert restore(checkpoints.latest(), variables).epoch == 2


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("survived", range(14))
def test_a_kill_at_any_moment_loses_no_checkpoint(checkpoints, variables, monkeypatch, survived, keep):
    # The last step of an epoch is saved twice: when it is due, and when the epoch is closed.
    checkpoints.keep = keep
    for number, best in ((1, 1), (2, 2), (3, 2)):
        checkpoints.save(_state(number, best), _values(variables))
    done = []

    def until_killed(change):
        def changed(*arguments, **named):
            if len(done) == survived:
                raise KeyboardInterrupt
            done.append(change.__name__)
            return change(*arguments, **named)

        return changed

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir", "replace", "rename", "mkdir"):
            patch.setattr(os, name, until_killed(getattr(os, name)))
        with contextlib.suppress(KeyboardInterrupt):
            checkpoints.save(_state(3, 3), _values(variables))
    after = Checkpoints(checkpoints.run_folder)
    after.begin_attempt(checkpoints.owner)
    latest = restore(after.latest(), variables)
    assert latest.step == 30 and latest.best_epoch in (2, 3)
    assert restore(after.best(latest), variables).epoch == latest.best_epoch
    assert [path.name for path in checkpoints.folder.rglob(".*")] == []


def test_a_checkpoint_of_another_network_is_refused(checkpoints, variables):
    checkpoints.save(_state(1, 1), _values(variables[:3]))
    for others in (variables, variables[:2]):
        with pytest.raises(InputError, match="holds 3 variables"):
            restore(checkpoints.latest(), others)


def test_a_checkpoint_holds_no_pickle(checkpoints, variables):
    checkpoints.save(_state(1, 1), _values(variables))
    assert sorted(path.name for path in checkpoints.latest().iterdir()) == ["state.json", "variables.npz"]
    json.loads((checkpoints.latest() / "state.json").read_text())
    with np.load(checkpoints.latest() / "variables.npz", allow_pickle=False) as arrays:
        assert len(arrays.files) == len(variables)
        for name in arrays.files:
            assert arrays[name].dtype != object


def test_a_writer_keeps_what_was_at_the_time_and_tells_when_it_is_on_the_disk(checkpoints, variables):
    writer, told = Writer(checkpoints), []
    state, saved = _state(1, 1), _values(variables)
    writer.save(state, variables, lambda kept: told.append((kept.step, checkpoints.latest().name)))
    state.step = 11
    for variable in variables:
        variable.assign(keras.ops.zeros_like(variable))
    writer.wait()
    assert told == [(10, "step-00000010")]
    assert restore(checkpoints.latest(), variables).step == 10
    for before, after in zip(saved, _values(variables), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_kept_a_writer_from_writing_is_raised_at_the_next_occasion(checkpoints, variables):
    writer = Writer(checkpoints)
    Checkpoints(checkpoints.run_folder).take_over()
    writer.save(_state(1, 1), variables, lambda kept: None)
    with pytest.raises(Superseded):
        writer.wait()
    assert writer.idle and checkpoints.latest() is None


def test_checkpoints_of_later_steps_are_forgotten(checkpoints, variables):
    for epoch in (1, 2):
        checkpoints.save(_state(epoch, 1), _values(variables))
    checkpoints.forget_after(10)
    assert checkpoints.latest().name == "step-00000010"


def test_what_is_taken_from_another_run_is_all_that_there_is_then(checkpoints, variables, tmp_path):
    """The better network's latest checkpoint and its best weights, and nothing of one's own."""
    donor = Checkpoints(tmp_path / "donor")
    donor.begin_attempt(donor.take_over())
    donor.save(_state(2, 2), [array + 1 for array in _values(variables)])
    donor.save(_state(4, 2), [array + 2 for array in _values(variables)])
    for epoch in (1, 3, 6):
        checkpoints.save(_state(epoch, epoch), _values(variables))
    before = _values(variables)
    checkpoints.take_from(tmp_path / "donor")
    assert [path.name for path in (checkpoints.folder / "checkpoints").iterdir()] == ["step-00000040"]
    assert [path.name for path in (checkpoints.folder / "best").iterdir()] == ["step-00000020"]
    state = restore(checkpoints.latest(), variables)
    assert state == _state(4, 2)
    for mine, taken in zip(before, _values(variables), strict=True):
        np.testing.assert_array_equal(mine + 2, taken)
    # The donor goes on and removes what was taken: it stays here.
    donor.save(_state(5, 5), _values(variables))
    donor.save(_state(6, 6), _values(variables))
    restore(checkpoints.best(state), variables)
    for mine, taken in zip(before, _values(variables), strict=True):
        np.testing.assert_array_equal(mine + 1, taken)


def test_of_a_run_without_a_checkpoint_nothing_is_taken(checkpoints, variables, tmp_path):
    checkpoints.save(_state(1, 1), _values(variables))
    checkpoints.take_from(tmp_path / "nobody")
    assert checkpoints.latest().name == "step-00000010"
