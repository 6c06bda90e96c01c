import pytest

from r2d2 import config
from r2d2.training.schedule import learning_rate, total_steps


def _rates(workers, steps_per_epoch=10, **settings):
    training = config.Training(**{"epochs": 8, "learning_rate": 0.1, "warmup_epochs": 2} | settings)
    total = 8 * steps_per_epoch
    return [learning_rate(training, workers, steps_per_epoch, total, step) for step in range(total)]


def test_the_rate_is_scaled_once_by_the_number_of_workers_after_a_climb_from_the_base_rate():
    rates = _rates(workers=4)
    assert rates[0] == pytest.approx(0.1 + 0.3 / 20)
    assert rates[9] == pytest.approx(0.1 + 0.3 / 2)
    assert rates[19] == pytest.approx(0.4)
    assert rates[20:] == [pytest.approx(0.4)] * 60
    assert rates[:20] == sorted(rates[:20])


def test_one_worker_has_nothing_to_climb():
    assert _rates(workers=1) == [0.1] * 80


@pytest.mark.parametrize("settings", [{"workers": 1}, {"workers": 4, "scaling": "none"}])
def test_from_zero_there_is_something_to_climb_also_where_nothing_is_scaled(settings):
    rates = _rates(**settings, warmup_from="zero")
    assert rates[:20] == [pytest.approx(0.1 * step / 20) for step in range(1, 21)]
    assert rates[20:] == [0.1] * 60


def test_from_zero_the_climb_is_to_the_scaled_rate():
    assert _rates(workers=4, warmup_from="zero", warmup_steps=5)[:6] == pytest.approx(
        [0.08, 0.16, 0.24, 0.32, 0.4, 0.4]
    )


def test_without_warm_up_the_scaled_rate_is_there_at_once():
    assert _rates(workers=4, warmup_epochs=0) == [pytest.approx(0.4)] * 80


def test_without_scaling_the_number_of_workers_plays_no_part():
    assert _rates(workers=4, scaling="none") == [0.1] * 80


def test_cosine_falls_to_zero_at_the_end_of_the_run_by_way_of_the_half():
    rates = _rates(workers=2, decay="cosine")
    assert rates[20] == pytest.approx(0.2)
    assert rates[50] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.001


def test_the_root_of_the_number_of_workers_scales_too():
    assert _rates(workers=4, scaling="sqrt")[20:] == [pytest.approx(0.2)] * 60


def test_a_warm_up_in_steps_wins_over_one_in_epochs():
    rates = _rates(workers=4, warmup_steps=5)
    assert rates[0] == pytest.approx(0.1 + 0.3 / 5) and rates[4:] == [pytest.approx(0.4)] * 76


@pytest.mark.parametrize(("power", "half_way"), [(1.0, 0.1), (2.0, 0.05)])
def test_a_polynomial_falls_by_the_power_of_what_is_left(power, half_way):
    rates = _rates(workers=2, decay="polynomial", decay_power=power)
    assert rates[20] == pytest.approx(0.2)
    assert rates[50] == pytest.approx(half_way)
    assert rates[79] == pytest.approx(0.2 * (1 / 60) ** power)


@pytest.mark.parametrize(("updates", "steps"), [("same-epochs", 8 * 3), ("same-updates", 8 * 57)])
def test_more_workers_make_fewer_updates_or_as_many_as_one_would(updates, steps):
    # 400 images: 57 minibatches of 7, or 3 global ones of 18 workers.
    assert total_steps(config.Training(epochs=8, batch_size=7, updates=updates), 400 // (7 * 18), 400) == steps
