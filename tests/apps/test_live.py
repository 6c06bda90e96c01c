"""The dashboard in a browser, before a real run of two ranks: it is watched, and stopped with a reason."""

import json
import urllib.request

import pytest
from helpers.board import browser, colours, query, services_up, write_experiment
from helpers.processes import run, wait_for

from r2d2 import services
from r2d2.console import person
from r2d2.engine.services.end import end_service


@pytest.fixture(scope="module")
def board(tmp_path_factory, virtual_patients):
    """Services, a run of two ranks that goes on until it is stopped, and a browser: `run_id`, `context`."""
    home = tmp_path_factory.mktemp("board")
    with services_up(home) as found, browser() as context:
        experiment = write_experiment(home / "small.yaml", virtual_patients)
        code, _, err = run("submit", "--json", "--", "train", experiment, **found.here)
        assert code == 0, err
        wait_for(lambda: query(home, "select run_uuid from runs"), 240)  # once the data are prepared
        found.context, ((found.run_id,),) = context, query(home, "select run_uuid from runs")
        yield found


def epoch(page):
    """The epoch that the page shows."""
    shown = page.get_by_test_id("stMetric").filter(has_text="Epoch").get_by_test_id("stMetricValue").inner_text()
    return int(shown)


def test_a_run_is_watched_and_stopped_by_a_person_with_a_reason_and_its_model_is_used(board, virtual_patients):
    page = board.context.new_page()
    page.goto(board.page)
    # Of what goes on: those in the table below open a tab of their own, and may be there before.
    page.get_by_test_id("stPageLink").get_by_role("link", name="small-").first.click()
    page.get_by_role("heading", name="Run", exact=True).wait_for()
    assert f"run={board.run_id}" in page.url

    page.get_by_role("heading", name="Loss", exact=True).wait_for()
    first = wait_for(lambda: epoch(page), 60)
    chart = page.get_by_test_id("stVegaLiteChart").first
    chart.locator("canvas, svg").first.wait_for()
    before, main = chart.screenshot(), page.get_by_test_id("stMain")
    wait_for(lambda: epoch(page) >= first + 5, 60)  # nobody has touched the page: its curves grow
    wait_for(lambda: chart.screenshot() != before, 10)
    page.set_viewport_size({"width": 1440, "height": 500})
    main.evaluate("one => one.scrollTo(0, 200)")
    first = epoch(page)
    wait_for(lambda: epoch(page) > first, 60)
    assert main.evaluate("one => one.scrollTop") == 200  # and they stand where they stood
    page.set_viewport_size({"width": 1440, "height": 1000})

    page.get_by_text("Nodes", exact=True).first.click()
    page.get_by_role("heading", name="Processors").wait_for()
    assert "show=Nodes" in page.url
    page.reload()  # the state is in the address
    page.get_by_role("heading", name="Processors").wait_for()

    page.get_by_test_id("stPopover").get_by_role("button", name="Stop").click()
    page.get_by_text("after this epoch").click()
    reason = page.get_by_label("Why")
    reason.fill("It <b>is</b> good enough")
    reason.press("Enter")
    page.get_by_role("button", name="Stop this run").click()
    page.get_by_text("Asked: it leaves after this epoch").wait_for()
    why = f"stopped on request by {person()}: It <b>is</b> good enough"
    page.get_by_text(why).first.wait_for()
    tags = dict(query(board.home, "select key, value from tags where run_uuid = ?", board.run_id))
    assert tags["r2d2.reason"] == why
    did = [json.loads(tags[key]) for key in sorted(tags) if key.startswith("r2d2.action.")]
    assert did == [
        {"by": person(), "what": f"submit as job {tags['r2d2.job']}", "why": ""},
        {"by": person(), "what": "stop after epoch", "why": "It <b>is</b> good enough"},
    ]
    assert query(board.home, "select name, version, run_id from model_versions") == [("small", 1, board.run_id)]

    page.get_by_text("Pictures", exact=True).first.click()
    page.get_by_role("heading", name="The worst patients of a validation").wait_for()
    page.get_by_role("slider").first.wait_for()
    wait_for(lambda: page.get_by_test_id("stImage").count() >= 2, 30)

    # Its model is judged, promoted all the same, and finds something in a scan.
    page.goto(f"{board.page}/zoo?model=small/1&tab=Promote")
    page.get_by_role("button", name="Judge").click()
    page.get_by_text("The gate refuses it").wait_for()  # too few patients for it
    page.get_by_label("Reason").fill("The first one")
    page.get_by_label("Reason").press("Tab")
    page.get_by_role("button", name="Force small/1").click()
    page.get_by_text("champion now").wait_for()
    assert query(board.home, "select alias, version from registered_model_aliases where alias = 'champion'")
    page.goto(f"{board.page}/predict?model=small/1&data={virtual_patients}&case=brain_003")
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("button", name="Download the mask").wait_for()
    viewer = page.frame_locator("iframe[title*=niivue]").locator("canvas").first
    viewer.wait_for()
    wait_for(lambda: sum(colours(viewer)) > 300, 60)
    page.close()


def resumed(page, menu):
    """A run that has left goes on, and learns more."""
    ended = epoch(page)
    menu.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Resume it").click()
    menu.get_by_role("button", name="Stop").wait_for()  # it goes on, and the page has seen it
    wait_for(lambda: epoch(page) > ended, 120)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_training_is_submitted_resumed_and_stopped_on_the_pages_and_ray_may_go(
    tmp_path, virtual_patients, monkeypatch
):
    with services_up(tmp_path) as found, browser() as context:
        page = context.new_page()
        menu = page.get_by_test_id("stPopover")
        page.goto(f"{found.page}/train?data={virtual_patients}")
        page.get_by_role("button", name="Check").click()
        page.get_by_text("The check accepts it").wait_for()
        for key, value in (("image size", "[26, 30]"), ("epochs", "2000"), ("batch size", "16"), ("workers", "2")):
            field = page.get_by_label(key, exact=True)
            field.fill(value)
            field.press("Enter")
        page.get_by_text("workers: 2").wait_for()  # in the file that it makes
        page.get_by_role("button", name="Train", exact=True).click()
        page.get_by_text("Watch its run").click()
        page.get_by_role("heading", name="Loss", exact=True).wait_for()
        ((run_id, began),) = query(found.home, "select run_uuid, start_time from runs")
        assert f"run={run_id}" in page.url

        (job,) = query(found.home, "select value from tags where key = 'r2d2.job'")[0]
        urllib.request.urlopen(f"{found.jobs}/api/jobs/{job}/stop", b"", 60).close()  # as `ray job stop` does
        page.get_by_text("terminated").first.wait_for()
        resumed(page, menu)
        menu.get_by_role("button", name="Stop").click()
        page.get_by_text("leave it to be resumed").click()
        page.get_by_role("button", name="Stop this run").click()
        page.get_by_text("paused on request").first.wait_for()
        assert query(found.home, "select * from model_versions") == []
        resumed(page, menu)
        menu.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Stop this run").click()
        page.get_by_text("stopped on request").first.wait_for()
        assert query(found.home, "select run_uuid, start_time from runs") == [(run_id, began)]
        tags = dict(query(found.home, "select key, value from tags where run_uuid = ?", run_id))
        did = [json.loads(tags[key])["what"].partition(" as job")[0] for key in sorted(tags) if "action" in key]
        assert did == ["submit", "resume", "pause", "resume", "stop"]

        # Ray goes and comes back before an open page, which keeps what it had.
        page.goto(found.page)
        page.get_by_text("2 CPUs, head").wait_for()
        end_service(found.started["ray"])
        page.get_by_text("This page asks again").first.wait_for()
        assert page.get_by_text("2 CPUs, head").is_visible()
        code, _, err = run("up", timeout=150, **found.here)
        assert code == 0 and "ray: died; starting it again" in err, err
        monkeypatch.setenv("R2D2_HOME", str(found.home))
        found.started |= services.read()  # to be ended
        page.get_by_text("This page asks again").first.wait_for(state="hidden")
        assert page.get_by_text("2 CPUs, head").is_visible()
