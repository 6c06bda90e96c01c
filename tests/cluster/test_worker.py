from types import SimpleNamespace

import pytest

from r2d2 import config
from r2d2.cluster.leaving import ASKED, STOPPED, TERMINATED, TIME_IS_UP, StopAsked
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


@pytest.mark.parametrize(("tag", "file", "expected"), [(True, False, STOPPED), (False, True, TERMINATED)])
def test_a_wish_to_stop_is_found_by_the_tag_and_by_the_file(tmp_path, tag, file, expected):
    asked = []

    def ask():
        asked.append(1)
        if len(asked) == 1:
            raise ConnectionError("the server is away")
        return tag

    stop = StopAsked(tmp_path / "stop", ask, every_s=0.01)
    try:
        if file:
            (tmp_path / "stop").touch()
        stop.found.wait(timeout=10)
    finally:
        stop.close()
    assert stop.code == expected
