"""Copies of remote folders: fsspec's memory file system and a real web server stand for the clouds."""

import functools
import http.server
import os
import threading

import fsspec
import pytest

from r2d2.config import Data
from r2d2.data.mirror import MANIFEST, copy, here, list_remote
from r2d2.errors import InputError, WorkFailed

FILES = {"dataset.json": b"{}", "imagesTr/a.nii.gz": b"a" * 1000, "imagesTr/b.nii.gz": b"b" * 500}


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    for name, content in {**FILES, "imagesTr/._a.nii.gz": b"mac", ".git/config": b"x"}.items():
        system.pipe(f"/bucket/{name}", content)
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_remote_folder_is_copied_without_its_hidden_files(bucket, tmp_path):
    told = []
    copy(list_remote(bucket), tmp_path / "here", lambda: told.append(1))
    assert contents(tmp_path / "here") == FILES and len(told) == 3
    assert (tmp_path / "here" / MANIFEST).exists()


def test_only_what_changed_or_is_missing_is_copied_again(bucket, tmp_path, monkeypatch):
    remote = list_remote(bucket)
    copy(remote, tmp_path, lambda: None)
    (tmp_path / "imagesTr/b.nii.gz").write_bytes(b"short")
    remote.system.pipe("/bucket/dataset.json", b"[]")  # as long, and newer
    fetched, get_file = [], remote.system.get_file
    monkeypatch.setattr(remote.system, "get_file", lambda path, to: (fetched.append(path), get_file(path, to)))
    copy(list_remote(bucket), tmp_path, lambda: None)
    assert sorted(fetched) == ["/bucket/dataset.json", "/bucket/imagesTr/b.nii.gz"]
    assert contents(tmp_path) == FILES | {"dataset.json": b"[]"}


def test_a_copy_that_breaks_off_keeps_what_is_whole_and_goes_on(bucket, tmp_path, monkeypatch):
    remote = list_remote(bucket)
    get_file = remote.system.get_file

    def broken(path, to):
        get_file(path, to)
        if path.endswith("b.nii.gz"):
            raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(remote.system, "get_file", broken)
        with pytest.raises(WorkFailed, match=r"memory://bucket: the copy broke off \(connection reset\); run it again"):
            copy(remote, tmp_path, lambda: None)
    assert "imagesTr/b.nii.gz" not in contents(tmp_path)
    copy(remote, tmp_path, lambda: None)
    assert contents(tmp_path) == FILES


def test_what_the_source_has_no_more_is_removed_from_the_copy_with_its_folder(bucket, tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/old/patient/a.nii", b"old")
    copy(list_remote(bucket), tmp_path / "here", lambda: None)
    assert (tmp_path / "here/old/patient/a.nii").exists()
    system.rm("/bucket/old/patient/a.nii")
    copy(list_remote(bucket), tmp_path / "here", lambda: None)
    assert contents(tmp_path / "here") == FILES
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [MANIFEST, "dataset.json", "imagesTr"]


def test_a_manifest_that_was_cut_costs_a_fetch_and_no_more(bucket, tmp_path):
    copy(list_remote(bucket), tmp_path, lambda: None)
    manifest = tmp_path / MANIFEST
    manifest.write_text(manifest.read_text()[:-20])
    copy(list_remote(bucket), tmp_path, lambda: None)
    assert contents(tmp_path) == FILES


def test_two_urls_have_two_copies_whatever_their_names(tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe("/study/v1/a.nii", b"one")
    system.pipe("/study_v1/a.nii", b"two")
    one, two = (here(Data(path=f"memory://{name}"), tmp_path).path for name in ("study/v1", "study_v1"))
    assert (one / "a.nii").read_bytes() == b"one" and (two / "a.nii").read_bytes() == b"two"
    assert one.parent == two.parent == tmp_path / "mirrors" and here(Data(path=one), tmp_path).path == one


@pytest.fixture
def served(tmp_path):
    """A folder, its URL on a web server, and the files that were asked for."""
    folder, asked = tmp_path / "served", []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()
        thread.join()


def test_a_folder_of_a_web_server_is_copied_once_and_what_changed_again(served, tmp_path):
    folder, url, asked = served
    copy(list_remote(url), tmp_path / "here", lambda: None)
    assert contents(tmp_path / "here") == FILES
    asked.clear()
    copy(list_remote(url), tmp_path / "here", lambda: None)
    assert [path for path in asked if path.endswith(("z", "n"))] == []
    (folder / "imagesTr/a.nii.gz").write_bytes(b"A" * 1000)  # as long, a second newer
    os.utime(folder / "imagesTr/a.nii.gz", (2e9, 2e9))
    copy(list_remote(url), tmp_path / "here", lambda: None)
    assert [path for path in asked if path.endswith(("z", "n"))] == ["/imagesTr/a.nii.gz"]
    assert contents(tmp_path / "here") == FILES | {"imagesTr/a.nii.gz": b"A" * 1000}


@pytest.mark.parametrize("url", ["memory://nothing", "nosuch://bucket", "http://127.0.0.1:9/x"])
def test_a_url_with_nothing_behind_it_is_one_line(url):
    with pytest.raises(InputError) as caught:
        list_remote(url)
    assert str(caught.value).startswith(f"{url}: ") and "\n" not in str(caught.value)


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket):
    system = fsspec.filesystem("memory")
    system.store["/bucket/../../x"] = system.store["/bucket/dataset.json"]
    try:
        with pytest.raises(InputError, match="leads out of it"):
            list_remote(bucket)
    finally:
        del system.store["/bucket/../../x"]
