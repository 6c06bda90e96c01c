"""Records on their way to a real server that goes away and comes back, or refuses them."""

import json
import multiprocessing
import threading

import pytest
from helpers.processes import wait_for
from helpers.servers import Server

from r2d2.engine.runs import send
from r2d2.errors import InputError
from r2d2.tracking import delivery, runs, store
from r2d2.tracking.delivery import Delivery, waiting
from r2d2.tracking.outbox import Outbox, seal


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tracking") / "server")
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # MLflow sets them for good
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(delivery, "EVERY_S", 0.05)


@pytest.fixture
def run(server):
    """A client of the server and a new run's id."""
    client = store.connect(server.address)
    found = client.get_experiment_by_name("delivery")
    return client, client.create_run(found.experiment_id if found else client.create_experiment("delivery")).info.run_id


def steps(client, run_id, key):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def test_what_is_recorded_while_the_server_is_away_arrives_in_order_and_once(tmp_path, server, run, capfd):
    client, run_id = run
    outbox, sender = Outbox(tmp_path / "outbox", "attempt-0000"), Delivery(client, run_id, tmp_path / "outbox")
    sender.start()
    history = [{"epoch": epoch, "train/loss": 1 / epoch} for epoch in range(1, 31)]
    outbox.log_history(history[:10])
    wait_for(lambda: len(steps(client, run_id, "train/loss")) == 10, 30)
    server.kill()
    outbox.log_history(history[:20])
    outbox.tag(verdict="fast")
    outbox.attach_text("evaluation/test.json", "[1]")
    wait_for(lambda: "does not answer" in capfd.readouterr().err, 60)
    assert waiting(tmp_path / "outbox") == 12
    server.start()
    outbox.log_history(history)
    outbox.end("FINISHED", "all epochs done")
    assert sender.close(60) == 0
    assert steps(client, run_id, "train/loss") == [(row["epoch"], row["train/loss"]) for row in history]
    found = client.get_run(run_id)
    assert (found.info.status, found.data.tags["r2d2.verdict"]) == ("FINISHED", "fast")
    assert [file.path for file in client.list_artifacts(run_id, "evaluation")] == ["evaluation/test.json"]
    assert not [*(tmp_path / "outbox" / "files").iterdir()]


def test_a_second_attempt_s_epochs_and_scores_are_not_recorded_again_but_those_gone_back_over_are(tmp_path, run):
    client, run_id = run
    rows = [{"epoch": epoch, "train/loss": float(epoch)} for epoch in (1, 2, 3)]
    first = Outbox(tmp_path, "attempt-0000")
    first.log_history(rows)
    first.log({"test/dice": 0.5}, 3, once="test")
    second = Outbox(tmp_path, "attempt-0001")
    second.log_history(rows)
    second.log({"test/dice": 0.5}, 3, once="test")
    second.forget_after(2)
    second.log_history([*rows[:2], {"epoch": 3, "train/loss": 30.0}])
    Delivery(client, run_id, tmp_path).catch_up()
    assert sorted(steps(client, run_id, "train/loss")) == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 30.0)]
    assert steps(client, run_id, "test/dice") == [(3, 0.5)]


def test_what_a_replaced_attempt_writes_goes_nowhere(tmp_path, run):
    client, run_id = run
    old, new = Outbox(tmp_path, "attempt-0000"), Outbox(tmp_path, "attempt-0001")
    driver, late = Outbox(tmp_path, "driver-1"), tmp_path / "attempt-0000.jsonl"
    old.log({"a": 1.0}, step=1)
    told = late.read_bytes()
    seal(tmp_path, "attempt-0000")
    before = sorted(tmp_path.rglob("*"))
    old.log({"a": 2.0}, step=2)
    old.end("FAILED", "cut off")
    old.attach_text("notes.txt", "text")
    old.attach_file(late, "files")
    assert (sorted(tmp_path.rglob("*")), late.read_bytes()) == (before, told)
    late.write_bytes(told + told.replace(b"1.0", b"3.0"))  # it was in the middle of writing
    seal(tmp_path, "attempt-0000")  # a seal is never moved
    new.log({"a": 4.0}, step=4)
    driver.tag(restarts=1)
    assert waiting(tmp_path) == 3
    Delivery(client, run_id, tmp_path).catch_up()
    assert steps(client, run_id, "a") == [(1, 1.0), (4, 4.0)]
    assert client.get_run(run_id).info.status == "RUNNING"
    assert client.get_run(run_id).data.tags["r2d2.restarts"] == "1"


def test_a_delivery_that_dies_before_it_notes_what_has_arrived_repeats_nothing(tmp_path, run):
    client, run_id = run
    outbox = Outbox(tmp_path, "driver-1")
    for step in range(5):
        outbox.log({"system/a/cpu": float("nan") if step == 2 else 50.0, "cost/cpu_hours": step}, step)
    sender = Delivery(client, run_id, tmp_path)
    assert sender.catch_up() == 5
    sender.close()
    (tmp_path / "progress.json").unlink()
    assert Delivery(client, run_id, tmp_path).catch_up() == 5
    assert steps(client, run_id, "cost/cpu_hours") == [(step, float(step)) for step in range(5)]
    assert len(steps(client, run_id, "system/a/cpu")) == 5


def test_a_line_half_written_waits_for_its_rest(tmp_path, run):
    client, run_id = run
    outbox = Outbox(tmp_path, "driver-1")
    outbox.log({"a": 1.0})
    path = tmp_path / "driver-1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-20])
    assert Delivery(client, run_id, tmp_path).catch_up() == 1
    path.write_bytes(whole + whole.replace(b"1.0", b"2.0"))
    (tmp_path / "lock").unlink()
    assert Delivery(client, run_id, tmp_path).catch_up() == 1
    assert len(steps(client, run_id, "a")) == 2


def test_what_the_server_refuses_for_good_is_kept_aside_and_the_rest_arrives(tmp_path, run, capfd):
    client, run_id = run
    outbox = Outbox(tmp_path, "driver-1")
    outbox.log({"before": 1.0})
    outbox.log({"not a name?": 1.0})
    outbox.log({"good": 1.0})
    sender = Delivery(client, run_id, tmp_path)
    assert (sender.catch_up(), sender.refused) == (2, 1)
    assert steps(client, run_id, "before") == steps(client, run_id, "good") == [(0, 1.0)]
    assert json.loads((tmp_path / "refused.log").read_text())["values"] == {"not a name?": 1.0}
    assert "refuses a record" in capfd.readouterr().err


def test_the_records_of_a_deleted_run_wait_until_it_is_restored(tmp_path, run):
    client, run_id = run
    Outbox(tmp_path, "driver-1").log({"a": 1.0})
    client.delete_run(run_id)
    sender = Delivery(client, run_id, tmp_path)
    with pytest.raises(InputError, match=r"does not take the records .*active"):
        sender.catch_up()
    assert waiting(tmp_path) == 1
    client.restore_run(run_id)
    assert sender.catch_up() == 1 and steps(client, run_id, "a") == [(0, 1.0)]


def test_one_run_that_cannot_be_sent_keeps_no_other_from_it(home, server, run, monkeypatch):
    client, run_id = run
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    going_on = client.create_run("0").info.run_id
    for name in ("0" * 32, going_on, run_id):
        Outbox(home / "runs" / name / "outbox", "driver-1").log({"a": 1.0})
    driver = Delivery(client, going_on, home / "runs" / going_on / "outbox", take_over=True)
    unknown, sent = sorted(send(), key=lambda one: one["delivered"])
    assert (unknown["run_id"], unknown["delivered"]) == ("0" * 32, 0) and "not found" in unknown["problem"]
    assert sent == {"run_id": run_id, "delivered": 1, "refused": 0, "problem": None}
    assert steps(client, run_id, "a") == [(0, 1.0)] and driver.close() == 1


def test_a_driver_takes_over_from_another_and_nobody_else_does(tmp_path, run):
    client, run_id = run
    outbox = Outbox(tmp_path, "driver-1")
    first = Delivery(client, run_id, tmp_path, take_over=True)
    first.start()
    with pytest.raises(InputError, match="it goes on, and its driver delivers"):
        Delivery(client, run_id, tmp_path)
    second = Delivery(client, run_id, tmp_path, take_over=True)
    second.start()
    outbox.log({"a": 1.0})
    assert second.close(30) == 0 and first.close() == 0
    assert steps(client, run_id, "a") == [(0, 1.0)]


def test_a_wish_to_stop_is_heard_once_and_heard_again_if_it_becomes_another(tmp_path, run):
    client, run_id = run
    heard = []
    told = lambda *wish: heard.append((*wish, threading.current_thread().name))  # noqa: E731
    sender = Delivery(client, run_id, tmp_path, on_stop=told)
    sender.start()
    asked = runs.Run(client, run_id)
    asked.ask_to_stop("epoch", "ada", "no better")
    wait_for(lambda: heard, 30)
    asked.ask_to_stop("now", "bob", "")
    wait_for(lambda: len(heard) > 1, 30)
    asked.ask_to_stop("epoch", "bob", "", pause=True)
    wait_for(lambda: len(heard) > 2, 30)
    assert sender.close() == 0
    assert [wish[:2] for wish in heard] == [
        ("epoch", "by ada: no better"),
        ("now", "by bob"),
        ("pause epoch", "by bob"),
    ]
    assert {wish[2] for wish in heard} == {"delivery"}
    done = runs.actions(client.get_run(run_id).data.tags)
    assert [(one["by"], one["what"], one["why"]) for one in done] == [
        ("ada", "stop after epoch", "no better"),
        ("bob", "stop", ""),
        ("bob", "pause after epoch", ""),
    ]


def _trial(address, folder, number):
    client = store.connect(address)
    run_id = client.create_run("0").info.run_id
    outbox, sender = Outbox(folder / str(number), "attempt-0000"), Delivery(client, run_id, folder / str(number))
    sender.start()
    for epoch in range(1, 101):
        outbox.log_history([{"epoch": epoch, "train/loss": number + 1 / epoch, "val/dice": epoch / 100}])
    outbox.end("FINISHED", "done")
    (folder / f"{number}.json").write_text(json.dumps([run_id, sender.close(120)]))


@pytest.mark.long
def test_eight_trials_log_at_once_through_one_server_and_nothing_is_lost(tmp_path, server, run):
    context = multiprocessing.get_context("spawn")
    trials = [context.Process(target=_trial, args=(server.address, tmp_path, number)) for number in range(8)]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join(timeout=200)
    client, _ = run
    for number in range(8):
        run_id, left = json.loads((tmp_path / f"{number}.json").read_text())
        assert left == 0 and client.get_run(run_id).info.status == "FINISHED"
        assert steps(client, run_id, "train/loss") == [(epoch, number + 1 / epoch) for epoch in range(1, 101)]
