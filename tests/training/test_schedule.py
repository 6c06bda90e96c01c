import pytest

from r2d2 import config
from r2d2.training.schedule import learning_rate


def _rates(workers, steps_per_epoch=10, **settings):
    training = config.Training(**{"epochs": 8, "learning_rate": 0.1, "warmup_epochs": 2} | settings)
    return [learning_rate(training, workers, steps_per_epoch, step) for step in range(8 * steps_per_epoch)]


def test_the_rate_is_scaled_once_by_the_number_of_workers_after_a_climb_from_the_base_rate():
    rates = _rates(workers=4)
    assert rates[0] == pytest.approx(0.1 + 0.3 / 20)
    assert rates[9] == pytest.approx(0.1 + 0.3 / 2)
    assert rates[19] == pytest.approx(0.4)
    assert rates[20:] == [pytest.approx(0.4)] * 60
    assert rates[:20] == sorted(rates[:20])


def test_one_worker_has_nothing_to_climb():
    assert _rates(workers=1) == [0.1] * 80


def test_without_warm_up_the_scaled_rate_is_there_at_once():
    assert _rates(workers=4, warmup_epochs=0) == [pytest.approx(0.4)] * 80


def test_without_scaling_the_number_of_workers_plays_no_part():
    assert _rates(workers=4, scaling="none") == [0.1] * 80


def test_cosine_falls_to_zero_at_the_end_of_the_run_by_way_of_the_half():
    rates = _rates(workers=2, decay="cosine")
    assert rates[20] == pytest.approx(0.2)
    assert rates[50] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.001
