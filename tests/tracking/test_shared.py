"""Answers that many share: asked once, kept when their source is away, and back when it is."""

import threading
import time

import pytest
from helpers.processes import wait_for

from r2d2.errors import InputError
from r2d2.tracking import shared
from r2d2.tracking.shared import Refused, Shared


def test_many_who_ask_at_once_get_one_answer_asked_for_once():
    asked, go = [], threading.Event()

    def question():
        asked.append(threading.current_thread().name)
        go.wait(10)
        return "here"

    answers, found = Shared(), []
    viewers = [threading.Thread(target=lambda: found.append(answers.ask("q", question, 60.0))) for _ in range(20)]
    for viewer in viewers:
        viewer.start()
    wait_for(lambda: asked, 10)
    go.set()
    for viewer in viewers:
        viewer.join()
    assert len(asked) == 1 and [answer.value for answer in found] == ["here"] * 20


def test_the_last_answer_stays_when_its_source_is_away_and_a_new_one_comes_when_it_is_back(monkeypatch):
    monkeypatch.setattr(shared, "RETRY_S", 0.05)
    answers, state = Shared(), {"value": 1, "error": None}

    def question():
        if state["error"]:
            raise state["error"]
        return state["value"]

    def ask():
        return answers.ask("q", question, 0.01)

    assert (ask().value, ask().problem) == (1, "")
    state["error"] = InputError("the server is away")
    away = wait_for(lambda: (answer := ask()).problem and answer, 10)
    assert (away.value, away.problem) == (1, "the server is away") and away.age_s > 0
    state.update(value=2, error=None)
    wait_for(lambda: (ask().value, ask().problem) == (2, ""), 10)
    state["error"] = LookupError("the run is deleted")  # it says that there is none: the last answer is no longer true

    def refused():
        try:
            return not ask()
        except InputError as error:
            return isinstance(error, Refused) and str(error) == "the run is deleted"

    wait_for(refused, 10)


def test_who_has_an_answer_does_not_wait_long_for_a_newer_one(monkeypatch):
    answers, hangs = Shared(), threading.Event()
    assert answers.ask("q", lambda: 1, 0.01).value == 1
    time.sleep(0.02)
    began = time.monotonic()
    assert answers.ask("q", lambda: hangs.wait(20) and 2, 0.01).value == 1
    assert time.monotonic() - began < 5
    hangs.set()


def test_for_an_old_answers_successor_one_waits_and_after_an_act_too(monkeypatch):
    answers = Shared()

    def slowly(value):
        threading.Event().wait(0.6)  # longer than one waits for what is only just due
        return value

    assert answers.ask("q", lambda: 1, 60.0).value == 1
    answers.forget("q")
    assert answers.ask("q", lambda: slowly(2), 0.01).value == 2
    monkeypatch.setattr(shared, "OLD_S", 0.1)
    wait_for(lambda: answers._known["q"].due < time.monotonic() - 0.2, 5)
    assert answers.ask("q", lambda: slowly(3), 0.01).value == 3


def test_what_never_had_an_answer_says_why_and_what_was_forgotten_is_asked_again():
    answers, asked = Shared(), []
    with pytest.raises(InputError, match="no server there") as away:
        answers.ask("q", lambda: (_ for _ in ()).throw(InputError("no server there")), 60.0)
    assert not isinstance(away.value, Refused)
    for _ in range(3):
        answers.ask("r", lambda: asked.append(1), 60.0)
    answers.forget()
    answers.ask("r", lambda: asked.append(1), 60.0)
    assert len(asked) == 2


def test_only_so_many_answers_are_kept(monkeypatch):
    monkeypatch.setattr(shared, "MOST", 3)
    answers, asked = Shared(), []
    for key in (1, 2, 3, 4, 4, 1):
        answers.ask(key, lambda key=key: asked.append(key), 60.0)
    assert asked == [1, 2, 3, 4, 1]
