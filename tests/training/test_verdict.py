import pytest

from r2d2.training.state import Seconds
from r2d2.training.verdict import loss, of_ring, verdict


@pytest.mark.parametrize(
    ("seconds", "first", "told"),
    [
        (
            Seconds(40, 60, 0),
            "Waiting for images took 40% of the time (60% compute, 40% input, 0% communication)",
            "R2D2_CACHE",
        ),
        (
            Seconds(1, 83, 16),
            "Communication took 16% of the time (83% compute, 1% input, 16% communication)",
            "batch_size",
        ),
        (Seconds(20, 50, 30), "Communication took 30%", ""),
        (Seconds(30, 50, 20), "Waiting for images took 30%", ""),
        (Seconds(1, 98, 1), "Computing took 98% of the time (98% compute, 1% input, 1% communication)", "More workers"),
        (Seconds(14, 72, 14), "Computing took 72%", "neither images nor communication took 15%"),
        (Seconds(), "Computing took 0%", ""),
    ],
)
def test_the_largest_loss_that_matters_is_the_verdict(seconds, first, told):
    said = verdict(seconds)
    assert said.startswith(first) and told in said and "\n" not in said and "slowest worker," not in said
    assert loss(seconds) == {"Waiting": "input", "Communication": "communication"}.get(first.split()[0], "")


def test_a_worker_that_waits_for_images_is_no_loss_by_the_ring_and_is_named():
    fast, late = Seconds(input=0, compute=50, communication=50), Seconds(input=40, compute=50, communication=10)
    assert of_ring([late, fast]) == (0, late) and of_ring([fast, late]) == (1, late)
    assert "took 40% of the time" in verdict(late) and "rank" not in verdict(late)
    said = verdict(late, {"rank 0 (a)": 1.0, "rank 1 (b)": 9.0})
    assert ", most often by rank 1 (b), the slowest worker. What" in said


def test_a_worker_that_computes_for_longer_is_waited_for_and_one_that_is_behind_for_both_takes_no_time_away():
    slow, fast = Seconds(0, 90, 10), Seconds(0, 50, 50)
    assert of_ring([fast, slow]) == (1, Seconds(0, 70, 30))
    assert "waiting for the slowest worker, most often rank 1 (b). What" in verdict(Seconds(0, 7, 3), {"rank 1 (b)": 1})
    # It computes little because it waits for images.
    assert of_ring([Seconds(60, 30, 10), Seconds(0, 60, 40)]) == (0, Seconds(60, 30, 10))
    alone = Seconds(1, 2, 3)
    assert of_ring([alone]) == (0, alone)
