"""What all pages of the dashboard share: who is let in, who may act, how text, numbers and errors are shown."""

import getpass
import tomllib
from types import SimpleNamespace

import pytest
from starlette.exceptions import HTTPException
from streamlit.testing.v1 import AppTest

from apps.dashboard import door, figures, page
from r2d2 import resources, services
from r2d2.engine.services import commands
from r2d2.engine.services.settings import Settings
from r2d2.errors import InputError
from r2d2.segeval import overlay

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``")  # of SQLAlchemy's, at MLflow
VIEWS = sorted(path.stem for path in resources.find("apps/dashboard/views").glob("*.py"))


@pytest.fixture
def app(monkeypatch):
    """The dashboard without a browser, as the loopback address' server has it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.file_store())  # MLflow sets it, too
    monkeypatch.setenv("R2D2_LOGIN_BY", "loopback")
    return AppTest.from_file(resources.find("apps/dashboard/app.py"), default_timeout=60)


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_says_what_to_do_in_a_new_home_and_makes_nothing(app, home, view):
    app.run()
    app.switch_page(f"views/{view}.py").run()
    assert not app.exception and [title.value.lower() for title in app.title] == [view]
    assert not home.exists()
    assert getpass.getuser() in app.sidebar.caption[0].value.replace("\\", "")


def test_a_server_that_r2d2_did_not_start_shows_nothing(app, monkeypatch):
    monkeypatch.delenv("R2D2_LOGIN_BY")
    app.run()
    assert not app.sidebar.caption and "r2d2 dashboard" in app.error[0].value


def test_a_store_that_does_not_answer_is_told_on_the_page(app, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    app.run()
    assert not app.exception and "no server answers there" in app.error[0].value


def test_behind_a_proxy_only_who_it_names_is_let_in(app, monkeypatch):
    monkeypatch.setenv("R2D2_LOGIN_BY", "header")
    monkeypatch.setenv("R2D2_PROXY", "10.0.0.0/24")
    monkeypatch.setattr(page, "peer", lambda: "10.0.1.7")  # not the proxy, whatever it claims
    app.user = {"name": "mallory"}
    app.run()
    assert app.error and not app.sidebar.caption
    monkeypatch.setattr(page, "peer", lambda: "10.0.0.7")
    app.run()
    assert not app.error and "mallory" in app.sidebar.caption[0].value
    app.user = {}
    app.run()
    assert app.error and not app.sidebar.caption


def test_with_openid_connect_one_logs_in_first(app, monkeypatch):
    monkeypatch.setenv("R2D2_LOGIN_BY", "oidc")
    app.secrets["auth"] = {"redirect_uri": "http://h/oauth2callback", "cookie_secret": "x" * 32}
    app.user = {"is_logged_in": False}
    app.run()
    assert [button.label for button in app.button] == ["Log in"] and not app.sidebar.caption
    app.user = {"is_logged_in": True, "email": "ada@example.org"}
    app.run()
    assert page.plain("ada@example.org") in app.sidebar.caption[0].value


def test_where_others_can_reach_it_the_dashboard_does_not_start_without_a_login(home):
    line, environment = commands.dashboard("127.0.0.1", 8501, Settings(read_only=True))
    assert environment["R2D2_LOGIN_BY"] == "loopback" and environment["R2D2_READ_ONLY"] == "1"
    assert line[line.index("--server.address") + 1] == "127.0.0.1"
    with pytest.raises(InputError, match=r"--host 10.0.0.7: there the dashboard needs a login; .*login.toml"):
        commands.dashboard("10.0.0.7", 8501, Settings())
    for wrong in ({"user_header": "X-User"}, {"proxy": "10.0.0.1"}, {"user_header": "X-User", "proxy": "all"}):
        with pytest.raises(InputError, match=r"--proxy|--user-header"):
            commands.dashboard("10.0.0.7", 8501, Settings(**wrong))
    line, environment = commands.dashboard("10.0.0.7", 8501, Settings(user_header="X-User", proxy="10.0.0.1"))
    assert line[line.index("--server.trustedUserHeaders") + 1] == '{"X-User": "name"}'
    assert (environment["R2D2_LOGIN_BY"], environment["R2D2_PROXY"]) == ("header", "10.0.0.1")
    (home / "services").mkdir(parents=True)
    services.login_file().write_text("[auth]\nredirect_uri = 'https://h/oauth2callback'\n")
    with pytest.raises(InputError, match=r"login.toml: \[auth\] needs cookie_secret"):
        commands.dashboard("10.0.0.7", 8501, Settings())
    services.login_file().write_text("[auth]\nredirect_uri = 'https://h/oauth2callback'\ncookie_secret = 'x'\n")
    assert commands.dashboard("10.0.0.7", 8501, Settings())[1]["R2D2_LOGIN_BY"] == "oidc"


def test_files_are_taken_where_a_page_waits_for_them_and_not_without_an_end(app, monkeypatch):
    class Files(door.Files):
        """Streamlit's, apart."""

    class Runtime:
        is_active_session = lambda *_: True  # noqa: E731

    monkeypatch.setattr(door, "Files", Files)
    monkeypatch.setattr(door, "Runtime", Runtime)
    monkeypatch.setattr(door, "MOST_OF_ONE", 10)
    monkeypatch.setattr(door, "MOST", 15)
    door.guard()
    files = Files("")

    def put(session, name, size):
        files.add_file(session, SimpleNamespace(file_id=name, data=bytes(size)))
        return sorted(files.file_storage[session])

    def refused(session, size):
        with pytest.raises(HTTPException) as caught:
            put(session, "refused", size)
        return caught.value.status_code

    assert refused("ada", 1) == 403 and not Runtime().is_active_session("ada")
    monkeypatch.setattr(door, "_taking", {"ada", "bob"})
    assert Runtime().is_active_session("ada") and put("ada", "a", 8) == ["a"]
    assert refused("ada", 3) == 413 and refused("bob", 8) == 413
    files.remove_session_files("ada")
    assert put("bob", "b", 8) == ["b"] and refused("ada", 1) == 403


def test_whoever_leaves_predict_uploads_nothing_any_more(app, monkeypatch):
    monkeypatch.setattr(door, "_taking", {"test session id", "another"})
    app.run()
    assert door._taking == {"another"}
    door._taking.add("test session id")
    app.switch_page("views/predict.py").run()
    assert door._taking == {"another", "test session id"}
    app.switch_page("views/data.py").run()
    assert door._taking == {"another"}


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "**bold** _it_",
        ":red[x] :material/home:",
        "$x^2$",
        "../../etc",
        "a\nb",
        "http://a.b",
        "www.a.b",
    ],
)
def test_text_is_shown_as_it_is(text):
    shown = page.plain(text)
    marks = [place for place, letter in enumerate(shown) if letter in "<*_:$[." and shown[place - 1] != "\\"]
    assert not marks and "\n" not in shown
    assert shown.replace("\\", "").replace(page.JOIN, "") == text.replace("\n", " ")
    assert "://" not in shown and "www." not in shown


def test_numbers_are_for_people():
    assert [page.duration(s) for s in (12, 200, 7500, 273600)] == ["12 s", "3 min", "2 h 5 min", "3 d 4 h"]
    assert [page.number(0.8125), page.number(None), page.number(float("nan"))] == ["0.812", "-", "-"]
    assert [page.size(512), page.size(3_400_000)] == ["512 B", "3.4 MB"]


def test_charts_and_overlays_have_one_palette_and_a_hostile_name_is_no_expression():
    assert figures.COLOURS == overlay.COLOURS
    theme = tomllib.loads(resources.find("apps/dashboard/theme.toml").read_text())["theme"]
    assert tuple(theme["chartCategoricalColors"]) == figures.COLOURS
    chart = figures.paired([("P1", 0.5, 0.6), ("P2", 0.7, 0.7)], "a' + alert(1) + '", "b\\", "Dice").to_dict()
    axis = chart["layer"][0]["encoding"]["x"]["axis"]["labelExpr"]
    assert axis == r"datum.label == '1' ? 'a\' + alert(1) + \'' : 'b\\'"
