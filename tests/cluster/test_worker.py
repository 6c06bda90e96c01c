from types import SimpleNamespace

import pytest

from r2d2 import config
from r2d2.cluster.leaving import ASKED, STOPPED, TAGGED, TERMINATED, TIME_IS_UP, StopAsked
from r2d2.cluster.worker import _Worker
from r2d2.training.state import State


def code(elapsed_s, limit, asked=0, rank_0=True):
    """What a worker tells the others after so many seconds."""
    worker = SimpleNamespace(
        stop=SimpleNamespace(code=asked) if rank_0 else None,
        training=config.Training(max_minutes=limit),
        state=State(elapsed_s=elapsed_s),
    )
    return _Worker._code(worker)


def test_rank_0_tells_when_the_minutes_are_over_and_the_others_tell_nothing():
    assert code(59, 1.0) == 0 and code(60, 1.0) == TIME_IS_UP and code(1e9, None) == 0
    assert code(60, 1.0, rank_0=False) == 0
    assert ASKED[TIME_IS_UP].text == "training.max_minutes are over" and ASKED[TIME_IS_UP].evaluate


@pytest.mark.parametrize(("said", "expected"), [(TAGGED, STOPPED), ("SIGTERM", TERMINATED)])
def test_the_driver_s_wish_to_stop_is_found_with_its_reason(tmp_path, said, expected):
    stop = StopAsked(tmp_path / "stop")
    try:
        assert stop.code == 0 and not stop.found.is_set()
        (tmp_path / "stop").write_text(said)
        assert stop.found.wait(timeout=10)
        assert stop.code == expected
    finally:
        stop.close()
