"""The dashboard's server as it is started, before a real browser: who gets in, and what an open page outlives."""

import contextlib
import threading

import pytest
from helpers.board import browser
from helpers.pages import make_run
from helpers.processes import end, start, wait_for
from helpers.servers import answers
from helpers.stores import furnish
from oidc_provider_mock import User, app
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect
from werkzeug.serving import make_server

from r2d2 import services
from r2d2.network import free_port
from r2d2.tracking import store

# The provider's own.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with an empty store, and nobody who has logged in."""
    monkeypatch.setenv("R2D2_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    furnish(tmp_path)
    services.login_file().parent.mkdir(parents=True)
    return tmp_path


@pytest.fixture
def client(home):
    """Its store's."""
    return store.connect(store.resolve())


@contextlib.contextmanager
def served(*options, port=None):
    """The dashboard: its port."""
    port = port or free_port("127.0.0.1")
    process = start("dashboard", "--port", port, *options)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/_stcore/health"), 120, process)
        yield port
    finally:
        end(process)


@contextlib.contextmanager
def provider(*users):
    """An OpenID Connect provider that knows these people: its address."""
    server = make_server("localhost", 0, app(user_claims=users), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def texts(port, **headers):
    """All that a page says to whoever opens it with these headers, as a proxy would send them."""
    said, asked = [], BackMsg()
    asked.rerun_script.query_string = ""
    stream = f"ws://127.0.0.1:{port}/_stcore/stream"
    with connect(stream, subprotocols=["streamlit"], max_size=None, additional_headers=headers) as socket:
        socket.send(asked.SerializeToString())
        while True:
            told = ForwardMsg.FromString(socket.recv(60))
            if told.WhichOneof("type") == "script_finished":
                return " ".join(said)
            said.append(str(told.delta.new_element))


def test_whoever_logs_in_at_the_provider_sees_runs_and_is_known_by_name(home, client):
    make_run(client, "secret-run")
    port = free_port("127.0.0.1")
    people = User(sub="ada", claims={"email": "ada@example.org"}), User(sub="bob", claims={"email": "bob@example.org"})
    with provider(*people) as address:
        services.login_file().write_text(
            f"[auth]\nredirect_uri = 'http://localhost:{port}/oauth2callback'\ncookie_secret = '{'x' * 32}'\n"
            f"client_id = 'r2d2'\nclient_secret = 'of the test'\n"
            f"server_metadata_url = '{address}/.well-known/openid-configuration'\n"
        )
        with served(port=port), browser() as context:
            said = texts(port)
            assert "Log in" in said and "secret" not in said
            page = context.new_page()
            page.goto(f"http://localhost:{port}/compare")
            page.get_by_role("button", name="Log in").click()
            page.get_by_role("button", name="ada", exact=True).click()
            page.get_by_text("secret-run").first.wait_for()
            sidebar = page.get_by_test_id("stSidebar")
            sidebar.get_by_text("ada").wait_for()
            said = texts(port)  # to whoever has not
            assert "Log in" in said and "secret" not in said


def test_a_proxys_header_is_believed_from_the_proxy_alone(home, client):
    make_run(client, "secret-run")
    header = {"X-Forwarded-User": "ada"}
    with (
        served("--user-header", "X-Forwarded-User", "--proxy", "127.0.0.1") as mine,
        served("--user-header", "X-Forwarded-User", "--proxy", "10.0.0.1") as other,
    ):
        said = texts(mine, **header)
        assert "secret\\\\-run" in said and ":material/person: ada" in said
        for port, sent in ((mine, {}), (other, header)):
            refused = texts(port, **sent)
            assert "has not said who you are" in refused and "secret" not in refused


def test_an_open_page_outlives_the_server(home, client):
    run_id = make_run(client, "small", "RUNNING")
    port = free_port("127.0.0.1")
    with browser() as context:
        page = context.new_page()
        with served(port=port):
            page.goto(f"http://127.0.0.1:{port}/run?run={run_id}")
            page.get_by_text("Nodes", exact=True).first.click()
            page.get_by_role("heading", name="Processors").wait_for()
        client.log_metric(run_id, "train/loss", 0.25, step=77)
        with served(port=port):  # nobody touches the page
            page.get_by_test_id("stMetricValue").get_by_text("77", exact=True).wait_for()
            page.get_by_role("heading", name="Processors").wait_for()
            assert "show=Nodes" in page.url and f"run={run_id}" in page.url
