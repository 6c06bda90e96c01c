"""Who holds an alias, on a real store."""

import threading

import pytest

from r2d2.engine import promote as engine
from r2d2.errors import InputError, WorkFailed
from r2d2.tracking import promotion, store
from r2d2.tracking.promotion import HolderChanged

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own, of SQLAlchemy and others


@pytest.fixture
def client(home, monkeypatch):
    """A client of a registry with a model of four versions, each made by a run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "")
    uri = store.resolve()
    client = store.connect(uri)
    experiment = client.create_experiment("heart", store.artifacts(uri))
    client.create_registered_model("heart")
    for _ in range(4):
        run = client.create_run(experiment).info.run_id
        client.create_model_version("heart", source=str(home), run_id=run)
    return client


def trail(client, alias="champion"):
    return [(event["did"], event["version"]) for event in promotion.history(client, "heart", alias)]


def test_a_promotion_puts_on_top_and_a_rollback_takes_away(client):
    assert promotion.holder(client, "heart", "champion") is None
    promotion.take(client, "heart", 1, "champion", None, "promoted", "")
    promotion.take(client, "heart", 2, "champion", 1, "promoted", "")
    promotion.take(client, "heart", 3, "champion", 2, "forced", "a deadline")
    assert promotion.roll_back(client, "heart", "champion", "it failed") == (3, 2)
    assert promotion.roll_back(client, "heart", "champion", "") == (2, 1)
    with pytest.raises(InputError, match="no previous holder"):
        promotion.roll_back(client, "heart", "champion", "")
    assert promotion.holder(client, "heart", "champion") == 1
    events = ["promoted", "promoted", "forced", "rolled back", "rolled back"]
    assert trail(client) == [*zip(events, [1, 2, 3, 2, 1], strict=True)]
    assert promotion.history(client, "heart", "champion")[3]["reason"] == "it failed"
    assert promotion.history(client, "heart", "staging") == []


def test_an_alias_that_was_set_by_other_means_is_part_of_the_trail(client):
    client.set_registered_model_alias("heart", "champion", "4")
    promotion.take(client, "heart", 1, "champion", 4, "promoted", "")
    assert trail(client) == [("found", 4), ("promoted", 1)]
    assert promotion.roll_back(client, "heart", "champion", "") == (1, 4)


def test_who_was_judged_against_another_holder_takes_nothing(client):
    promotion.take(client, "heart", 1, "champion", None, "promoted", "")
    with pytest.raises(HolderChanged):
        promotion.take(client, "heart", 2, "champion", None, "promoted", "")
    assert promotion.holder(client, "heart", "champion") == 1


def test_of_many_at_the_same_time_one_takes_it(client):
    took, start = [], threading.Barrier(4)

    def try_to_take(version):
        start.wait()
        try:
            promotion.take(client, "heart", version, "champion", None, "promoted", "")
            took.append(version)
        except HolderChanged:
            pass

    threads = [threading.Thread(target=try_to_take, args=(version,)) for version in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(took) == 1 and promotion.holder(client, "heart", "champion") == took[0]
    assert trail(client) == [("promoted", took[0])]
    assert [model.name for model in client.search_registered_models()] == ["heart"]


def test_a_dead_holder_s_lock_is_broken(client, monkeypatch):
    monkeypatch.setattr(promotion, "STALE_S", 0.5)
    client.create_registered_model("heart (promotion under way)", tags={"r2d2.holder": "dead"})
    promotion.take(client, "heart", 1, "champion", None, "promoted", "")
    assert promotion.holder(client, "heart", "champion") == 1


def test_of_two_promotions_at_the_same_time_the_second_is_judged_against_the_first_s_result(client, monkeypatch):
    promotion.take(client, "heart", 1, "champion", None, "promoted", "")
    judged = []

    def judge(candidate, champion, alias, data):
        judged.append((candidate, champion))
        if len(judged) == 1:  # while this judgement goes on, another is over
            promotion.take(client, "heart", 2, "champion", 1, "promoted", "")
        return {"reasons": [], "alias": alias}

    monkeypatch.setattr(engine, "_judged", judge)
    made = engine.promote("heart", 3)
    assert judged == [("heart/3", "heart/1"), ("heart/3", "heart/2")]
    assert (made.model, made.before) == ("heart/3", "heart/2")
    assert engine.roll_back("heart")["model"] == "heart/2"


def test_a_refusal_is_recorded_and_force_needs_a_reason_that_is_too(client, monkeypatch):
    monkeypatch.setattr(engine, "_judged", lambda *_: {"reasons": ["worse", "and worse"]})
    with pytest.raises(WorkFailed, match="heart/2 is not promoted to @champion: worse; and worse"):
        engine.promote("heart", 2)
    assert promotion.holder(client, "heart", "champion") is None
    judged = promotion.judgements(client.get_model_version("heart", "2").tags)
    assert judged["champion"]["verdict"] == "refused" and judged["champion"]["reasons"] == ["worse", "and worse"]
    with pytest.raises(InputError, match="--force needs a --reason"):
        engine.promote("heart", 2, force=True, reason=" ")
    made = engine.promote("heart", 2, force=True, reason="the only one")
    assert made.evidence["verdict"] == "forced" and trail(client) == [("forced", 2)]
    tags = client.get_model_version("heart", "2").tags
    judged = promotion.judgements(tags)["champion"]
    assert (judged["verdict"], judged["reason"]) == ("forced", "the only one")
    run = client.get_model_version("heart", "2").run_id
    files = [file.path for file in client.list_artifacts(run, "promotion")]
    assert len(files) == 2 and judged["file"] in files
    with pytest.raises(InputError, match="heart/2 holds @champion already"):
        engine.promote("heart", 2)


def test_a_version_that_was_deleted_is_passed_over(client):
    for version, before in ((1, None), (2, 1), (3, 2)):
        promotion.take(client, "heart", version, "champion", before, "promoted", "")
    client.delete_model_version("heart", "2")
    assert promotion.roll_back(client, "heart", "champion", "") == (3, 1)
    promotion.take(client, "heart", 4, "champion", 1, "promoted", "")
    client.delete_model_version("heart", "4")  # its alias goes with it
    assert promotion.holder(client, "heart", "champion") is None
    assert promotion.roll_back(client, "heart", "champion", "") == (None, 1)
    with pytest.raises(InputError, match="heart/4: it is not in the registry any more"):
        promotion.take(client, "heart", 4, "champion", 1, "promoted", "")


@pytest.mark.parametrize("alias", ["latest", "v1", "a/b", "../evil", "", "1"])
def test_what_can_be_no_alias_is_refused_before_anything_is_judged(client, monkeypatch, alias):
    monkeypatch.setattr(engine, "_judged", lambda *_: pytest.fail("it was judged"))
    with pytest.raises(InputError, match="alias"):
        engine.promote("heart", 1, alias)


def test_a_reason_that_the_record_cannot_take_moves_nothing(client, monkeypatch):
    monkeypatch.setattr(engine, "_judged", lambda *_: {"reasons": []})
    with pytest.raises(InputError, match="501 characters; the record takes 500"):
        engine.promote("heart", 1, reason="x" * 501)
    assert promotion.holder(client, "heart", "champion") is None
    engine.promote("heart", 1, reason='"' * 500)
    assert promotion.history(client, "heart", "champion")[0]["reason"] == '"' * 500


def test_an_unknown_model_is_one_line(client):
    for work in (lambda: engine.promote("liver", 1), lambda: engine.roll_back("liver")):
        with pytest.raises(InputError, match="liver"):
            work()
