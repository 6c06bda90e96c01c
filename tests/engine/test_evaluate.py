from types import SimpleNamespace

import fsspec
from helpers.datasets import LABELS, plain

from r2d2.config import parse
from r2d2.engine.evaluate import _dataset_for


def test_a_model_s_data_at_a_url_are_looked_for_where_its_training_put_them(tmp_path):
    plain(tmp_path / "source")
    fsspec.filesystem("memory").put(f"{tmp_path / 'source'}/", "/evaluated/", recursive=True)
    settings = ["data.labels={0: background, 1: edema, 2: tumour}", f"tracking.storage={tmp_path / 'storage'}"]
    experiment = parse("{name: x, data: {path: 'memory://evaluated'}}", settings)
    dataset = _dataset_for(SimpleNamespace(experiment=experiment, labels=LABELS, channels=("0",)), None)
    (copy,) = (tmp_path / "storage/mirrors").iterdir()
    assert [case.images for case in dataset.cases] == [(copy / f"images/{name}.nii.gz",) for name in "ab"]
