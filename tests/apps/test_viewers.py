"""Many viewers of one live run before a real MLflow server, which is asked no more than by one; and is killed."""

import time

import pytest
from helpers.pages import make_run, opened, words
from helpers.processes import end, start, wait_for
from helpers.servers import Counted, Server, answers
from helpers.viewers import Viewer, watch

from r2d2.network import free_port
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


@pytest.fixture
def board(live):
    """The dashboard's server, which asks by way of that proxy: its address."""
    port = free_port("127.0.0.1")
    process = start("dashboard", "--port", port)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/_stcore/health"), 120, process)
        yield address
    finally:
        end(process)


def test_the_requests_of_a_refresh_do_not_depend_on_the_number_of_viewers(live, board):
    """Viewers are WebSocket sessions of the run's page, which refresh its live parts."""
    _, run_id, proxy = live
    watch([Viewer(board, "run", f"run={run_id}")], 0.0)  # all that is over is known
    asked = {}
    for count in (1, 20):
        viewers = [Viewer(board, "run", f"run={run_id}") for _ in range(count)]
        opened_at = []

        def page_is_there():
            proxy.paths.clear()  # what pages ask for when they are opened
            opened_at.append(time.monotonic())  # noqa: B023

        watch(viewers, 8.0, page_is_there)
        asked[count] = queries.LIVE_S * len(proxy.paths) / (time.monotonic() - opened_at[-1])
        assert all(viewer.refreshes_s and not viewer.errors for viewer in viewers)
    assert asked[1] > 0.5 and asked[20] < 1.2 * asked[1] + 0.5, asked


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
