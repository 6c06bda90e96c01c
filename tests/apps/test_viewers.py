"""Many viewers of one live run before a real MLflow server, which is asked no more than by one; and is killed."""

import threading
import time

import pytest
from helpers.pages import make_run, opened, words
from helpers.processes import wait_for
from helpers.servers import Counted, Server

from r2d2.tracking import queries, store
from r2d2.tracking.shared import RETRY_S


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("viewers") / "server")
    yield found
    found.kill()


@pytest.fixture
def live(server, monkeypatch):
    """A run that goes on, behind a proxy that counts."""
    proxy = Counted(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    monkeypatch.setenv("R2D2_LOGIN_BY", "loopback")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = store.connect(proxy.address)
    run_id = make_run(client, "live", "RUNNING")
    yield client, run_id, proxy
    proxy.close()


def refreshes(run_id, viewers, seconds):
    """So many viewers read a run's page every LIVE_S, each at times of their own, for so long."""
    ended = time.monotonic() + seconds

    def view(number):
        time.sleep(queries.LIVE_S * number / viewers)
        while time.monotonic() < ended:
            run = queries.view(run_id).value
            queries.history(run, ["train/loss", "val/dice"])
            time.sleep(queries.LIVE_S)

    threads = [threading.Thread(target=view, args=(number,)) for number in range(viewers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_requests_of_a_refresh_do_not_depend_on_the_number_of_viewers(live):
    _, run_id, proxy = live
    refreshes(run_id, 1, 1)  # all that is over is known
    counts = {}
    for viewers in (1, 20):
        proxy.paths.clear()
        refreshes(run_id, viewers, 8)
        counts[viewers] = len(proxy.paths)
    # A question an interval of LIVE_S, whoever asks; at its ends one more or less.
    assert 3 <= counts[1] <= 6 and abs(counts[20] - counts[1]) <= 2, counts


def test_for_a_viewer_who_is_behind_nothing_is_read_again(live):
    client, run_id, proxy = live
    behind = queries.view(run_id).value
    client.log_metric(run_id, "train/loss", 0.2, step=4)

    def ahead():
        return (found := queries.view(run_id).value).latest["train/loss"].step == 4 and found

    assert len(queries.history(wait_for(ahead, 30), ["train/loss"]).value["train/loss"]) == 4
    proxy.paths.clear()
    queries.forget()
    assert [point.step for point in queries.history(behind, ["train/loss"]).value["train/loss"]] == [1, 2, 3, 4]
    assert not [path for path in proxy.paths if "history" in path]


def test_a_page_keeps_what_it_had_while_the_server_is_away_and_comes_back_by_itself(live, server):
    client, run_id, _ = live
    app = opened("run", run=run_id)
    assert "3" in [metric.value for metric in app.metric]
    server.kill()

    def away():
        app.run()
        assert not app.exception
        return "This page asks again" in words(app)

    wait_for(away, 60)
    assert "3" in [metric.value for metric in app.metric]  # what it had
    server.start()

    def back():
        time.sleep(RETRY_S / 10)
        app.run()
        return "This page asks again" not in words(app)

    wait_for(back, 60)
    client.log_metric(run_id, "train/loss", 0.1, step=4)
    wait_for(lambda: "4" in [metric.value for metric in app.run().metric], 30)
