import pytest

from r2d2.training.state import Seconds
from r2d2.training.verdict import verdict


@pytest.mark.parametrize(
    ("seconds", "first", "told"),
    [
        (Seconds(40, 60, 0), "Input-bound (60% compute, 40% input, 0% communication)", "tracking.storage"),
        (Seconds(10, 50, 40), "Communication-bound (50% compute, 10% input, 40% communication)", "fp16"),
        (Seconds(20, 50, 30), "Communication-bound", ""),
        (Seconds(1, 98, 1), "Compute-bound (98% compute, 1% input, 1% communication)", "More workers"),
        (Seconds(), "Compute-bound", ""),
    ],
)
def test_the_largest_share_that_matters_is_the_verdict(seconds, first, told):
    said = verdict(seconds, workers=4)
    assert said.startswith(first) and told in said and "\n" not in said
