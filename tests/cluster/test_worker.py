import json
import math
from functools import partial
from types import SimpleNamespace

import keras
import pytest

from r2d2 import config
from r2d2.cluster.leaving import ASKED, GRACE_S, PAUSED, STOPPED, TAGGED, TERMINATED, TIME_IS_UP, StopAsked
from r2d2.cluster.validations import is_drawn
from r2d2.cluster.worker import _Worker
from r2d2.tracking.outbox import Outbox
from r2d2.training.state import Checkpoints, State, Writer, read_state

A_STEP = SimpleNamespace(loss=1.0, gradient_norm=1.0, code=0)


def code(elapsed_s, limit, asked=0, rank_0=True):
    """What a worker tells the others after so many seconds."""
    worker = SimpleNamespace(
        stop=SimpleNamespace(wish=(asked, "now")) if rank_0 else None,
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


@pytest.mark.parametrize("asked", [STOPPED, PAUSED])
@pytest.mark.parametrize(("when", "steps"), [("now", [6, 7, 8, 9, 10]), ("epoch", [10]), ("checkpoint", [8, 10])])
def test_a_run_that_is_to_leave_later_goes_on_until_its_epoch_or_its_checkpoint_is_whole(when, steps, asked):
    worker = SimpleNamespace(
        ring=SimpleNamespace(rank=0),
        writer=SimpleNamespace(idle=True),
        stop=SimpleNamespace(wish=(asked, when)),
        training=config.Training(checkpoints={"every_steps": 4, "every_minutes": None}),
        learner=SimpleNamespace(steps_per_epoch=10),
        last_save=0.0,
    )
    worker._save_is_due = partial(_Worker._save_is_due, worker)
    worker._leaves_with = partial(_Worker._leaves_with, worker)
    left = []
    for step in range(6, 11):
        worker.state, worker.saved_step = State(), (step - 1) // 4 * 4
        left += [step] * (_Worker._code(worker, step) == asked)
    assert left == steps


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (TAGGED, STOPPED),
        (f"{TAGGED} epoch\nby ada", STOPPED),
        (f"{TAGGED} now\nby pause epoch", STOPPED),
        (f"{TAGGED} pause now\nby ada", PAUSED),
        (f"{TAGGED} pause epoch\nby ada", PAUSED),
        ("SIGTERM", TERMINATED),
    ],
)
def test_the_driver_s_wish_to_stop_is_found_with_its_reason(tmp_path, said, expected):
    stop = StopAsked(tmp_path / "stop")
    try:
        assert stop.wish == (0, "now") and not stop.found.is_set()
        (tmp_path / "stop").write_text(said)
        assert stop.found.wait(timeout=10)
        assert stop.wish == (expected, "epoch" if "epoch" in said.partition("\n")[0] else "now")
    finally:
        stop.close()


class Scripted(_Worker):
    """A worker alone in its ring whose network is one number, the step; losses, scores and wishes come from a script.

    Args:
        folder: The run's.
        training: Settings, the sentinel's among them.
        steps: By step, what is told of it where that is not A_STEP.
        dice: By epoch, of its validation.
        weight: By step, what the update leaves as the weight.
        validation_s: What a validation is said to take.
        trial: Whether it is a part of a sweep.
    """

    def __init__(self, folder, training, steps=None, dice=None, weight=None, validation_s=0.0, trial=False):
        self.taken, self.told_steps, self.dice, self.weights = [], steps or {}, dice or {}, weight or {}
        self.validation_s, self.saved_before = validation_s, []
        self.task = SimpleNamespace(teaches=False, donor=None, trial=trial)
        self.training = config.Training(
            checkpoints={"every_minutes": None} | training.pop("checkpoints", {}), **training
        )
        self.experiment = SimpleNamespace(evaluation=SimpleNamespace(every_epochs=1))
        self.ring = SimpleNamespace(
            rank=0, broadcast_object=lambda one: one, broadcast=lambda variables: None, sum=lambda array, name: array
        )
        variable = keras.Variable([0.0])
        self.learner = SimpleNamespace(
            variables=[variable],
            model=SimpleNamespace(variables=[variable]),
            precision="float32",
            steps_per_epoch=4,
            total_steps=16,
            start=lambda state: None,
            step=self._step,
            end_epoch=self._epoch,
            ends_epoch=lambda state: state.step % 4 == 0,
        )
        self.checkpoints = Checkpoints(folder, self.training.checkpoints.keep)
        self.checkpoints.begin_attempt(self.checkpoints.take_over())
        self.writer, self.outbox = Writer(self.checkpoints), Outbox(folder / "outbox", self.checkpoints.owner)
        self.stop, self.stages, self.state = None, [], State()
        self._stand_at(self.checkpoints.latest())
        if not self.checkpoints.best(self.state).exists():
            self._save()

    def train(self):
        """Train as a worker does; why it left."""
        left = self._train()
        self.writer.wait()
        return left

    def _step(self, state, code):
        state.step += 1
        self.taken.append(state.step)
        self.learner.variables[0].assign([self.weights.get(state.step, float(state.step))])
        told = self.told_steps.get(state.step, A_STEP)
        if callable(told):
            told = told(self)
        return told

    def _epoch(self, state):
        state.epoch += 1
        return {"epoch": float(state.epoch), "train/loss": 1.0}

    def _validate(self):
        self.writer.wait()
        self.saved_before.append(self.checkpoints.latest().name)
        return {"val/dice": self.dice.get(self.state.epoch, 0.5), "time/validation_s": self.validation_s}

    def _report(self, row, **more):
        pass


def told(**values):
    """What is told of a step."""
    return SimpleNamespace(**vars(A_STEP) | values)


def standing(worker):
    """The steps of a worker's checkpoints, and the state of the latest."""
    found = sorted((worker.checkpoints.folder / "checkpoints").iterdir())
    return [int(path.name[5:]) for path in found], read_state(found[-1])


def once(trouble):
    """A step that is trouble the first time it is taken."""
    return lambda worker: trouble if worker.taken.count(worker.state.step) == 1 else A_STEP


def tags_of(worker):
    """What its outbox says."""
    lines = (worker.checkpoints.run_folder / "outbox").glob("*.jsonl")
    entries = [json.loads(line) for path in lines for line in path.read_text().splitlines()]
    return {key: value for one in entries if one["kind"] == "tags" for key, value in one["values"].items()}


RESTART = {"action": "restart", "collapse": 2}


def test_weights_that_were_gone_back_to_are_a_checkpoint_at_once_with_the_lower_rate(tmp_path):
    seen = []

    def nan_again(worker):
        seen.append(standing(worker))
        return told(loss=math.nan) if len(seen) == 1 else A_STEP

    # The best is step 4; Dice collapses at 8 and 12; and after going back to 4 the loss is NaN before an epoch is over.
    dice = {1: 0.9, 2: 0.01, 3: 0.01}

    def better(worker):
        worker.dice = {}
        return nan_again(worker)

    worker = Scripted(
        tmp_path, {"sentinel": RESTART}, {7: lambda one: better(one) if 12 in one.taken else A_STEP}, dice
    )
    assert worker.train().text == "all epochs done"
    steps, state = seen[0]
    assert steps == [4] and (state.rate_factor, state.sentinel_restarts) == (0.5, 1)
    assert worker.taken == [*range(1, 13), 5, 6, 7, *range(5, 17)]
    assert worker.state.rate_factor == 0.25 and [row["epoch"] for row in worker.state.history] == [1, 2, 3, 4]
    assert tags_of(worker)["r2d2.sentinel.2"] == "the loss became nan in step 7; back to step 4 at 0.25 times the rate"


def test_a_checkpoint_that_an_update_has_ruined_is_not_gone_back_to(tmp_path):
    often = {"checkpoints": {"every_steps": 2}, "sentinel": {"action": "restart"}}
    worker = Scripted(tmp_path, often, {7: once(told(loss=math.nan))})
    assert worker.train().text == "all epochs done"
    assert worker.taken == [*range(1, 8), *range(5, 17)]  # step 6 is saved, and of the weights that made NaN of 7


def test_weights_that_are_no_numbers_are_no_epoch_s_end(tmp_path):
    worker = Scripted(tmp_path, {"sentinel": {"action": "restart", "max_restarts": 1}}, weight={8: math.inf})
    left = worker.train()
    assert left.failed and left.text == "weights became NaN or infinite in step 8, after 1 restarts at lower rates"
    assert standing(worker)[0] == [0, 4]
    assert worker.state.best_step == 4


def test_without_a_checkpoint_from_before_the_run_fails(tmp_path):
    worker = Scripted(tmp_path, {"sentinel": {"action": "restart"}}, {1: told(loss=math.nan)})
    left = worker.train()
    assert left.failed and left.text == "the loss became nan in step 1, and there is no checkpoint from before"


def test_a_training_that_ended_early_is_over_for_whoever_takes_it_up(tmp_path):
    early = {"early_stopping": {"patience": 2}}
    first = Scripted(tmp_path, dict(early), dice={1: 0.9})
    left = first.train()
    assert left.text == "no better validation Dice in 2 epochs" and first.taken[-1] == 12
    second = Scripted(tmp_path, dict(early))
    assert second.train() == left and second.taken == [] and second.state == first.state


def test_a_run_that_left_within_an_epoch_closes_it_once_also_if_it_is_lost_in_its_validation(tmp_path):
    first = Scripted(tmp_path, {}, {6: told(code=STOPPED)}, validation_s=GRACE_S)
    validate, first._validate = first._validate, lambda: validate() if first.state.epoch == 1 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        first.train()
    first.writer.wait()
    second = Scripted(tmp_path, {})
    assert second.train() == ASKED[STOPPED] and second.taken == []
    assert (second.state.step, second.state.epoch, len(second.state.history)) == (6, 2, 2)
    third = Scripted(tmp_path, {})
    assert third.train() == ASKED[STOPPED] and third.state == second.state and third.saved_before == []


@pytest.mark.parametrize(("step", "epoch"), [(6, 1), (8, 2)])
def test_a_run_that_is_paused_is_not_over_and_an_epoch_that_is_whole_is_closed(tmp_path, step, epoch):
    first = Scripted(tmp_path, {}, {step: told(code=PAUSED)})
    assert first.train() == ASKED[PAUSED] and not ASKED[PAUSED].evaluate
    assert (first.state.step, first.state.epoch, first.state.left) == (step, epoch, "")
    second = Scripted(tmp_path, {})
    assert second.state == first.state and second.train().text == "all epochs done"
    assert second.taken == [*range(step + 1, 17)] and [row["epoch"] for row in second.state.history] == [1, 2, 3, 4]


def test_gains_that_are_small_but_steady_add_up(tmp_path):
    steady = {epoch: 0.5 + 0.004 * epoch for epoch in range(1, 5)}
    worker = Scripted(tmp_path, {"early_stopping": {"patience": 2, "improvement": 0.005}}, dice=steady)
    assert worker.train().text == "all epochs done"
    assert worker.state.improved_epoch == 3 and worker.state.best_epoch == 4


@pytest.mark.parametrize(("takes_s", "before"), [(0.0, [4, 4, 8, 12]), (GRACE_S, [4, 8, 12, 16])])
def test_before_a_validation_that_takes_long_there_is_a_checkpoint(tmp_path, takes_s, before):
    worker = Scripted(tmp_path, {}, validation_s=takes_s)
    worker.train()
    assert worker.saved_before == [f"step-{step:08d}" for step in before]


def asked_in_a_validation(folder, settings, asked, when, epoch):
    """A worker that is asked to leave while it validates an epoch."""
    worker = Scripted(folder, settings)
    worker.stop = SimpleNamespace(wish=(0, when))
    validate = worker._validate

    def asked_meanwhile():
        worker.stop.wish = asked * (worker.state.epoch == epoch), when
        return validate()

    worker._validate = asked_meanwhile
    return worker


@pytest.mark.parametrize(
    ("when", "epoch", "left"),
    [("now", 2, ASKED[STOPPED].text), ("epoch", 2, ASKED[STOPPED].text), ("now", 4, "all epochs done")],
)
def test_who_is_asked_to_leave_during_a_validation_leaves_at_its_end_if_there_is_more_to_train(
    tmp_path, when, epoch, left
):
    worker = asked_in_a_validation(tmp_path, {}, STOPPED, when, epoch)
    assert worker.train().text == left and worker.taken[-1] == 4 * epoch
    again = Scripted(tmp_path, {})
    assert again.train().text == left and again.taken == []


@pytest.mark.parametrize(
    ("early", "epoch", "left"),
    [(None, 2, "all epochs done"), (None, 4, "all epochs done"), (2, 3, "no better validation Dice in 2 epochs")],
)
def test_who_is_paused_during_a_validation_is_not_tested_and_has_left_to_do_what_is_left(tmp_path, early, epoch, left):
    settings = {"early_stopping": {"patience": early} if early else None}
    worker = asked_in_a_validation(tmp_path, dict(settings), PAUSED, "now", epoch)
    assert worker.train() == ASKED[PAUSED] and worker.taken[-1] == 4 * epoch
    again = Scripted(tmp_path, dict(settings))
    assert again.train().text == left and again.taken == ([] if early else [*range(4 * epoch + 1, 17)])


def test_a_pause_in_an_epoch_that_turns_out_ruined_is_a_failure(tmp_path):
    worker = Scripted(tmp_path, {}, {8: told(code=PAUSED)}, weight={8: math.inf})
    left = worker.train()
    assert left.failed and left.text.startswith("weights became NaN or infinite in step 8")


@pytest.mark.parametrize("keep", [1, 2])
def test_weights_that_have_shown_to_be_sound_are_gone_back_to_though_the_next_step_fails(tmp_path, keep):
    settings = {"checkpoints": {"keep": keep}, "sentinel": {"action": "restart"}}
    worker = Scripted(tmp_path, settings, {9: once(told(loss=math.nan))})
    assert worker.train().text == "all epochs done" and worker.taken == [*range(1, 10), *range(9, 17)]


def test_a_part_of_a_sweep_that_is_stopped_goes_on_where_it_stood(tmp_path):
    first = Scripted(tmp_path, {}, {6: told(code=STOPPED)}, trial=True)
    assert first.train() == ASKED[STOPPED] and first.state.epoch == 1
    second = Scripted(tmp_path, {}, trial=True)
    assert second.train().text == "all epochs done" and second.taken == [*range(7, 17)]
    assert [row["epoch"] for row in second.state.history] == [1, 2, 3, 4]
