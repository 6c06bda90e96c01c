import numpy as np
import pytest
import yaml
from helpers.packages import experiment, network, write_package

from r2d2 import config
from r2d2.engine.models import own_scans, parents, read_metadata, resolve, started, weights_file
from r2d2.errors import InputError
from r2d2.models import weights
from r2d2.models.weights import carry_over


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """The address of a store with one registered model, and the model."""
    from r2d2.tracking import runs, store, zoo

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    model, dataset = network(), {"split": {}, "labels": {}, "channels": [], "hash": "0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow sets it itself, for good; so it is taken back
        run = runs.create(client := store.connect(uri), experiment(folder), dataset)
        write_package(folder / "model", run.run_id, model)
        zoo.register(client, folder / "model", "heart", run.run_id, {})
    return uri, model


def test_without_weights_there_is_no_file(home):
    assert weights_file(experiment(home)) is None and not home.exists()


def test_a_file_is_kept_in_the_storage_under_what_is_in_it(home, tmp_path):
    source = tmp_path / "mine.weights.h5"
    (model := network()).save_weights(source)
    settings = experiment(home, f"{{weights: {source}}}")
    kept = weights_file(settings)
    assert kept.parent == home / "weights" and kept.read_bytes() == source.read_bytes()
    assert weights_file(settings) == kept and len(list(kept.parent.iterdir())) == 1
    model.get_layer("logits").bias.assign([5.0, 7.0])
    model.save_weights(source)
    other = weights_file(settings)
    assert other != kept
    carry_over(fresh := network(), other)
    np.testing.assert_array_equal(fresh.get_layer("logits").bias, [5, 7])


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of SQLAlchemy and others
def test_a_registered_model_is_resolved_to_its_network(home, registered, monkeypatch):
    uri, model = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    kept = weights_file(experiment(home, "{weights: 'zoo:heart@candidate'}"))
    assert kept.parent == home / "weights" and kept.suffix == ".keras"
    carried = carry_over(fresh := network(), kept)
    assert not carried.fresh
    for ours, theirs in zip(fresh.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert weights_file(experiment(home, "{weights: 'zoo:heart/1'}")) == kept
    with pytest.raises(InputError, match="heart/1 @candidate"):
        weights_file(experiment(home, "{weights: 'zoo:heart@production'}"))


@pytest.mark.filterwarnings("ignore")
def test_a_model_s_parents_are_all_it_comes_from_with_the_scans_they_have_seen(home, tmp_path, monkeypatch):
    from r2d2.tracking import runs, store, zoo

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = store.connect(uri)
    run = runs.create(client, experiment(tmp_path), {"hash": "0"})
    grandparent = {"model": "brain/2", "seen": ["hash of x"]}
    write_package(tmp_path / "model", run.run_id, training=["b", "a"], parents=[grandparent])
    zoo.register(client, tmp_path / "model", "heart", run.run_id, {})
    assert own_scans(read_metadata(resolve("heart/1"))) == ["hash of a", "hash of b"]
    found = parents(experiment(home, "{weights: 'zoo:heart@candidate'}"))
    assert found == [{"model": "heart/1", "seen": ["hash of a", "hash of b"]}, grandparent]
    assert parents(experiment(home)) == []

    asked = experiment(home).model_dump(mode="json") | {"start_from": "zoo:heart@candidate"}
    theirs = started(config.parse(yaml.safe_dump({key: asked[key] for key in asked if key != "model"})))
    assert (theirs.model.filters, theirs.model.depth, theirs.model.weights) == (1, 1, "zoo:heart@candidate")
    assert parents(theirs) == found and weights_file(theirs).suffix == ".keras"
    assert started(config.parse(theirs.to_yaml())) == theirs  # as it is recorded, when it is resumed
    asked["model"] = {"filters": 2, "depth": 1}
    assert started(config.parse(yaml.safe_dump(asked))).model.filters == 2
    asked["model"] = {"weights": "zoo:other/1"}
    with pytest.raises(InputError, match=r"start_from and model\.weights"):
        config.parse(yaml.safe_dump(asked))


def test_imagenets_weights_are_those_of_the_encoder(home, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "imagenet", lambda encoder, folder: asked.append((encoder, folder)))
    weights_file(experiment(home, "{network: dist-fcn, encoder: vgg16, weights: imagenet}"))
    assert asked == [("vgg16", home / "weights")]


def test_a_file_that_is_not_there_is_one_line(home, tmp_path):
    with pytest.raises(InputError, match=r"model\.weights .*none\.keras: No such file") as caught:
        weights_file(experiment(home, f"{{weights: {tmp_path / 'none.keras'}}}"))
    assert "\n" not in str(caught.value)
