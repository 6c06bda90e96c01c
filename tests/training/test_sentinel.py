import pytest

from r2d2 import config
from r2d2.training.sentinel import after_step, after_validation
from r2d2.training.state import State

WATCH = config.Sentinel(loss_factor=5, gradient_factor=50, collapse=3)


def troubles(losses, norms=None, settings=WATCH):
    """What is said after each step, by the number of the step."""
    state, told = State(), {}
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        state.step += 1
        if trouble := after_step(settings, state, loss, norm):
            told[state.step] = trouble
    return told


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_trouble_at_once_also_in_the_first_steps(value):
    (told,) = troubles([value]).values()
    assert told.before == 0 and told.text == f"the loss became {value} in step 1"
    (told,) = troubles([1.0, 1.0], [1.0, value]).values()
    assert told.text == f"the norm of the gradient became {value} in step 2"


def test_a_loss_that_stays_high_is_trouble_and_one_bad_batch_is_not():
    steady = [1.0] * 40
    assert troubles([*steady, 30.0, *steady]) == {}
    told = troubles([*steady, *[30.0] * 10])
    assert min(told) == 42 and told[42].before is None
    assert told[42].text == "the loss rose to 6.51 by step 42, 7 times its least"
    assert troubles([*steady, *[30.0] * 10], settings=config.Sentinel(loss_factor=None)) == {}


def test_a_gradient_that_explodes_is_trouble():
    told = troubles([1.0] * 60, [1.0] * 40 + [1000.0] * 20)
    assert min(told) == 41 and told[41].text.startswith("the norm of the gradient rose to 101 by step 41")


def test_the_first_steps_may_swing():
    assert troubles([1e-3] * 10 + [1.0] * 60) == {}


def test_a_score_that_collapsed_is_trouble_after_as_many_validations_as_asked_for():
    state = State(step=100, best_score=0.8)
    told = [after_validation(WATCH, state, score) for score in (0.05, 0.02, 0.3, 0.05, 0.02)]
    assert told == [None] * 5
    assert after_validation(WATCH, state, 0.01).text == (
        "the validation Dice collapsed from 0.800 to 0.010 by step 100, in 3 validations one after another"
    )


def test_a_network_that_never_knew_anything_has_not_collapsed():
    state = State(best_score=0.0)
    assert [after_validation(WATCH, state, 0.0) for _ in range(9)] == [None] * 9
