import pytest
from helpers.packages import experiment

from r2d2.tracking import queries, runs, store


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of SQLAlchemy
def test_a_run_is_listed_as_what_it_is_before_anything_else_of_it_is_written(home, tmp_path, monkeypatch):
    client, seen = store.connect(store.resolve()), []
    write = client.log_batch

    def look_first(run_id, *args, **more):
        queries.forget()
        seen.append([(run.run_id == run_id, run.running, run.tags["data"]) for run in queries.latest_runs().value])
        write(run_id, *args, **more)

    monkeypatch.setattr(client, "log_batch", look_first)
    runs.create(client, experiment(tmp_path), {"hash": "0123"})
    assert seen == [[(True, True, "0123")]]
