"""Copies of remote folders: fsspec's memory file system and a real web server stand for the clouds."""

import functools
import http.server
import threading

import fsspec
import pytest

from r2d2.data.mirror import copy, list_remote
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
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_remote_folder_is_copied_without_its_hidden_files(bucket, tmp_path):
    told = []
    copy(list_remote(bucket), tmp_path / "here", lambda: told.append(1))
    assert contents(tmp_path / "here") == FILES and len(told) == 3


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


def test_a_folder_of_a_web_server_is_copied(tmp_path):
    served = tmp_path / "served"
    for name, content in FILES.items():
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        (served / name).write_bytes(content)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            copy(list_remote(f"http://127.0.0.1:{server.server_port}/"), tmp_path / "here", lambda: None)
        finally:
            server.shutdown()
            thread.join()
    assert contents(tmp_path / "here") == FILES


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
