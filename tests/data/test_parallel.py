import os
import time

import pytest

from r2d2.data import parallel
from r2d2.data.parallel import spread
from r2d2.errors import WorkFailed


def square(number):
    return os.getpid(), number * number


def die(number):
    os.kill(os.getpid(), 9)


def slow(path):
    path.touch()
    time.sleep(0.05)


def test_every_item_is_worked_on_once_by_other_processes():
    found = list(spread(square, range(20), workers=2))
    assert [result for _, result in found] == [n * n for n in range(20)]
    assert os.getpid() not in {process for process, _ in found}


def test_what_is_done_soon_is_done_here_and_what_is_not_by_others(monkeypatch):
    assert list(spread(square, range(20))) == [(os.getpid(), n * n) for n in range(20)]
    monkeypatch.setattr(parallel, "WORTH_S", -1.0)
    found = list(spread(square, range(6)))
    assert [result for _, result in found] == [n * n for n in range(6)]
    assert [process == os.getpid() for process, _ in found] == [True, False, False, False, False, False]


def test_one_worker_is_this_process_and_keeps_the_order():
    assert list(spread(square, [3, 1, 2], workers=1)) == [(os.getpid(), 9), (os.getpid(), 1), (os.getpid(), 4)]


def test_nothing_to_do_is_nothing_done():
    assert list(spread(square, [])) == []


def test_a_killed_process_is_told_in_one_line():
    with pytest.raises(WorkFailed, match="was killed") as caught:
        list(spread(die, range(4), workers=2))
    assert "\n" not in str(caught.value) and 'if __name__ == "__main__":' in str(caught.value)


def test_what_has_not_begun_is_not_begun_after_the_consumer_stops(tmp_path):
    paths = [tmp_path / str(number) for number in range(200)]
    results = spread(slow, paths, workers=2)
    next(results)
    results.close()
    assert len(list(tmp_path.iterdir())) < 100
