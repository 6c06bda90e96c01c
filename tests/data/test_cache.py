import shutil
import socket
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from r2d2 import config
from r2d2.data import cache
from r2d2.data.cases import find_cases
from r2d2.data.prepare import open_prepared, prepare
from r2d2.errors import InputError

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def experiment(virtual_patients):
    preprocess = config.Preprocess(image_size=(16, 16))
    return config.Experiment(name="cached", data=config.Data(path=virtual_patients), preprocess=preprocess)


@pytest.fixture(scope="module")
def common(experiment, tmp_path_factory):
    """The folder that the driver prepared, in the storage common to all nodes."""
    dataset = find_cases(experiment.data)
    return prepare(dataset, experiment.preprocess, tmp_path_factory.mktemp("storage") / "prepared").folder


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "disk"))
    return tmp_path / "disk"


def test_without_a_disk_of_its_own_a_node_reads_the_storage(common, experiment, monkeypatch):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    assert cache.nearest(common, experiment) == (common, "storage")


def test_all_who_ask_at_once_share_one_copy_and_later_ones_find_it(common, experiment, local):
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(partial(cache.nearest, common), [experiment] * 4))
    ((folder, told),) = found
    assert (folder, told) == (local / "prepared" / common.name, str(local))
    np.testing.assert_array_equal(open_prepared(folder).images, open_prepared(common).images)
    made = (folder / "images.npy").stat()
    cache.nearest(common, experiment)
    assert (folder / "images.npy").stat().st_ino == made.st_ino


def test_a_copy_that_is_not_whole_is_made_again_and_one_that_broke_off_is_cleared_away(common, experiment, local):
    folder, _ = cache.nearest(common, experiment)
    with (folder / "labels.npy").open("r+b") as file:
        file.truncate(100)
    (folder.parent / f".{common.name}.0123456789ab.part").mkdir()
    assert cache.nearest(common, experiment) == (folder, str(local))
    assert (folder / "labels.npy").read_bytes() == (common / "labels.npy").read_bytes()
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([".locks", common.name])


def test_a_full_disk_is_told_and_the_storage_is_read(common, experiment, local, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    folder, told = cache.nearest(common, experiment)
    assert folder == common
    assert told == f"storage, since {local} cannot be written (No space left on device)"
    assert [path.name for path in (local / "prepared").iterdir()] == [".locks"]


def test_a_node_that_does_not_see_the_storage_prepares_the_same_data_itself(common, experiment, local, tmp_path):
    unseen = tmp_path / "elsewhere" / common.name
    folder, told = cache.nearest(unseen, experiment)
    assert (folder, told) == (local / "prepared" / common.name, f"{local}, prepared there")
    np.testing.assert_array_equal(open_prepared(folder).references, open_prepared(common).references)


def test_other_files_on_a_node_are_one_line_that_names_host_and_folder(common, experiment, local, tmp_path):
    other = experiment.model_copy(update={"preprocess": config.Preprocess(image_size=(16, 24))})
    with pytest.raises(InputError) as caught:
        cache.nearest(tmp_path / "elsewhere" / common.name, other)
    told = str(caught.value)
    assert told.startswith(f"{HOST}: {experiment.data.path}/imagesTr: ") and "\n" not in told
    assert f"the run's {common.name}" in told


def test_a_node_without_data_and_without_a_disk_is_one_line(common, experiment, tmp_path, monkeypatch):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    with pytest.raises(InputError, match=rf"^{HOST}: there is no {tmp_path}/gone; .* set R2D2_CACHE there"):
        cache.nearest(tmp_path / "gone", experiment)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "disk"))
    nowhere = experiment.model_copy(update={"data": config.Data(path=tmp_path / "no-scans")})
    with pytest.raises(InputError, match=rf"^{HOST}: .*{tmp_path}/no-scans"):
        cache.nearest(tmp_path / "gone", nowhere)


def test_a_disk_that_cannot_be_written_is_one_line_where_nothing_else_is(common, experiment, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    assert cache.nearest(common, experiment)[0] == common
    with pytest.raises(InputError, match=rf"^{HOST}: .*{tmp_path}/file"):
        cache.nearest(tmp_path / "gone" / common.name, experiment)
