"""Who waits for whose slots, from Ray's own lists."""

import os
from types import SimpleNamespace

from r2d2.cluster.jobs import _variable, _waits


def group(whose, state, *bundles):
    """A placement group as Ray lists it."""
    return SimpleNamespace(creator_job_id=whose, state=state, bundles=[{"unit_resources": one} for one in bundles])


def program(number, submission, what):
    return SimpleNamespace(job_id=number, submission_id=submission, entrypoint=what)


PROGRAMS = [program("01", "raysubmit_a", "r2d2 train a.yaml"), program("02", None, "python mine.py")]


def test_a_variable_is_as_it_was_once_the_last_of_several_is_done(monkeypatch):
    monkeypatch.delenv("R2D2_TRIED", raising=False)
    first, second = _variable("R2D2_TRIED", "page"), _variable("R2D2_TRIED", "page")
    first.__enter__()
    second.__enter__()  # another thread, before the first is done
    first.__exit__(None, None, None)
    assert os.environ["R2D2_TRIED"] == "page"
    second.__exit__(None, None, None)
    assert "R2D2_TRIED" not in os.environ


def test_nobody_waits_where_all_have_what_they_asked_for():
    assert _waits([group("01", "CREATED", {"CPU": 2.0}), group("02", "REMOVED", {"CPU": 9.0})], PROGRAMS) == {}


def test_who_waits_is_told_what_for_and_who_has_it():
    groups = [
        group("01", "CREATED", {}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}),
        group("02", "CREATED", {"CPU": 1.0}),
        group("03", "PENDING", {}, {"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}),
    ]
    assert _waits(groups, PROGRAMS) == {
        "03": "2 with 4 CPUs and 1 with 1 CPU, 1 GPU; raysubmit_a (r2d2 train a.yaml) has 4 CPUs, 2 GPUs; "
        "a program (python mine.py) has 1 CPU"
    }


def test_its_own_slots_do_not_keep_a_program_waiting():
    groups = [group("01", "CREATED", {"CPU": 1.0}), group("01", "RESCHEDULING", {"CPU": 1.0})]
    assert _waits(groups, PROGRAMS) == {"01": "1 with 1 CPU; other work has them"}
