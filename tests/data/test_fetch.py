"""Fetching against a server of this machine that has every bad habit: it breaks off, ignores Range, lies, changes."""

import fcntl
import hashlib
import io
import json
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from r2d2.data import fetch as module
from r2d2.data.fetch import TASKS, fetch, find_task
from r2d2.errors import InputError, WorkFailed

NAME = "Task02_Heart"


def nifti(seed, dtype):
    values = np.random.default_rng(seed).integers(0, 2, (20, 30, 40)).astype(dtype)
    return nib.Nifti1Image(values, np.diag([3.0, 2.0, 1.0, 1.0])).to_bytes()


def look_alike():
    """The files of a small task by their names in the archive, macOS' hidden ones among them."""
    about = {
        "name": "LeftAtrium",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "left atrium"},
        "training": [{"image": f"./imagesTr/la_{n}.nii", "label": f"./labelsTr/la_{n}.nii"} for n in (3, 7)],
    }
    files = {f"{NAME}/dataset.json": json.dumps(about).encode()}
    for n in (3, 7):
        files[f"{NAME}/imagesTr/la_{n}.nii"] = nifti(n, np.float32)
        files[f"{NAME}/labelsTr/la_{n}.nii"] = nifti(n, np.uint8)
        files[f"{NAME}/imagesTr/._la_{n}.nii"] = b"of macOS"
    return files | {"._Task02_Heart": b"of macOS"}


def tar(files, extra=()):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in extra:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return content.getvalue()


def publish(monkeypatch, content):
    """Make `content` what the Decathlon publishes as Task02_Heart; no waits between tries."""
    sum_ = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(TASKS, NAME, TASKS[NAME]._replace(bytes=len(content), md5=sum_))
    monkeypatch.setattr(module, "BACK_OFF_S", (0, 0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return content


@pytest.fixture
def archive(monkeypatch):
    return publish(monkeypatch, tar(look_alike()))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        habits = self.server.habits
        self.server.asked.append(dict(self.headers))
        count = len(self.server.asked)
        content, status, start = habits.content, 200, 0
        if count <= habits.failures:
            self.send_response(habits.status)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range", habits.tag)
        if wanted and habits.ranges and condition == habits.tag:
            start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
        if status == 206 and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = content[start:]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + habits.shift}-{len(content) - 1}/{len(content)}")
        if habits.tag:
            self.send_header("ETag", habits.tag)
        if habits.length:
            self.send_header("Content-Length", str(habits.length(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: habits.breaks_after] if habits.breaks_after and count <= habits.breaks else body)
        self.close_connection = True
        return None


@contextmanager
def serving(content, **habits):
    """A server of `content`; `url`, `asked` (the headers of every request) and `habits`, which may be changed."""
    good = {
        "failures": 0,
        "status": 503,
        "ranges": True,
        "tag": '"v1"',
        "length": len,
        "breaks": 10**6,
        "breaks_after": None,
        "shift": 0,
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.habits = SimpleNamespace(content=content, **good | habits)
    server.asked = []
    server.url = f"http://127.0.0.1:{server.server_port}/{NAME}.tar"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusal(kind, *arguments, **options):
    with pytest.raises(kind) as caught:
        fetch(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


VISIBLE = {f"{NAME}/dataset.json"} | {f"{NAME}/{part}Tr/la_{n}.nii" for part in ("images", "labels") for n in (3, 7)}


def assert_whole(folder):
    """The task's folder, byte for byte, and nothing else."""
    assert files(folder) == VISIBLE
    for name in VISIBLE:
        assert (folder / name).read_bytes() == look_alike()[name]


def test_the_published_sums_and_names_are_ten_different_ones():
    assert [task.name[:6] for task in TASKS.values()] == [f"Task{n:02}" for n in range(1, 11)]
    assert len({task.md5 for task in TASKS.values()}) == 10
    assert all(len(bytes.fromhex(task.md5)) == 16 for task in TASKS.values())


@pytest.mark.parametrize("text", ["Task02_Heart", "task02_heart", "task02", "Task2", "heart", "HEART", "2", "02"])
def test_a_task_is_found_by_its_name_number_and_organ(text):
    assert find_task(text).name == NAME


@pytest.mark.parametrize("text", ["1", "10"])
def test_one_and_ten_are_two_tasks(text):
    assert find_task(text).name.startswith(f"Task{int(text):02}_")


@pytest.mark.parametrize("text", ["kidney", "", "0", "11", "../heart"])
def test_an_unknown_task_is_refused_with_those_that_there_are(tmp_path, text):
    message = refusal(InputError, text, tmp_path / "data")
    assert repr(text) in message and "Task03_Liver (liver and tumours, CT, 28.9 GB)" in message
    assert not (tmp_path / "data").exists()


def test_a_task_is_fetched_without_hidden_files_and_the_archive_is_gone(tmp_path, archive):
    with serving(archive) as server:
        assert fetch("heart", tmp_path / "data", server.url) == tmp_path / "data" / NAME
        assert len(server.asked) == 1
    assert_whole(tmp_path / "data")


def test_what_is_there_is_found_without_asking_anyone(tmp_path, archive):
    with serving(archive) as server:
        fetch("heart", tmp_path, server.url)
    assert fetch("heart", tmp_path, "http://127.0.0.1:1/") == tmp_path / NAME


def test_a_folder_that_lost_a_file_is_refused_by_the_files_name(tmp_path, archive):
    with serving(archive) as server:
        fetch("heart", tmp_path, server.url)
        (tmp_path / NAME / "labelsTr" / "la_7.nii").unlink()
        message = refusal(InputError, "heart", tmp_path, server.url)
    assert "la_7.nii" in message and f"remove {tmp_path / NAME}" in message


def test_the_archive_stays_if_asked_and_is_unpacked_again_without_asking_anyone(tmp_path, archive):
    with serving(archive) as server:
        target = fetch("heart", tmp_path, server.url, keep_archive=True)
    assert (tmp_path / f"{NAME}.tar").read_bytes() == archive
    target.rename(tmp_path / "moved")
    fetch("heart", tmp_path, "http://127.0.0.1:1/")
    assert files(tmp_path / NAME) == files(tmp_path / "moved") and (tmp_path / f"{NAME}.tar").exists()


def test_a_wrong_archive_that_the_user_put_there_is_refused_and_left_alone(tmp_path, archive):
    (tmp_path / f"{NAME}.tar").write_bytes(b"something else")
    said = refusal(InputError, "heart", tmp_path, "http://127.0.0.1:1/")
    assert "not the published archive" in said and "remove it" in said
    assert files(tmp_path) == {f"{NAME}.tar"}


def test_a_body_that_breaks_off_goes_on_where_it_stopped(tmp_path, archive):
    with serving(archive, breaks=1, breaks_after=2 * module.CHUNK_BYTES) as server:
        fetch("heart", tmp_path, server.url)
        first, second = server.asked
    assert "Range" not in first
    assert (second["Range"], second["If-Range"]) == ("bytes=131072-", '"v1"')
    assert_whole(tmp_path)


def test_tries_that_bring_something_new_are_not_counted(tmp_path, archive):
    with serving(archive, breaks_after=module.CHUNK_BYTES) as server:
        fetch("heart", tmp_path, server.url)
        assert len(server.asked) == 4  # three in a row without anything new would have been the end
    assert_whole(tmp_path)


def test_a_later_call_goes_on_where_an_earlier_one_stopped(tmp_path, archive):
    with serving(archive, breaks_after=70_000) as server:
        server.habits.ranges = False  # every try begins anew, so that none brings anything new
        message = refusal(WorkFailed, "heart", tmp_path, server.url)
        assert "broke off, 3 times in a row" in message and "66 kB are in" in message and "run it again" in message
        assert files(tmp_path) == {f"{NAME}.tar.part", f"{NAME}.tar.part.json"}
        server.asked.clear()
        server.habits.ranges, server.habits.breaks_after = True, None
        fetch("heart", tmp_path, server.url)
        (only,) = server.asked
        assert only["Range"] == "bytes=65536-"
    assert_whole(tmp_path)


def test_a_server_that_ignores_range_starts_anew(tmp_path, archive):
    with serving(archive, breaks=1, breaks_after=2 * module.CHUNK_BYTES, ranges=False) as server:
        fetch("heart", tmp_path, server.url)
        assert len(server.asked) == 2
    assert_whole(tmp_path)


def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path, archive):
    with serving(bytes(len(archive)), breaks_after=70_000, ranges=False) as server:
        refusal(WorkFailed, "heart", tmp_path, server.url)
        server.habits.content, server.habits.tag = archive, '"v2"'
        server.habits.ranges, server.habits.breaks_after = True, None
        fetch("heart", tmp_path, server.url)
    assert_whole(tmp_path)


def test_without_a_version_of_the_file_nothing_is_gone_on_with(tmp_path, archive):
    with serving(archive, breaks=1, breaks_after=2 * module.CHUNK_BYTES, tag="") as server:
        fetch("heart", tmp_path, server.url)
        assert all("Range" not in headers for headers in server.asked)
    assert_whole(tmp_path)


def test_a_part_from_another_place_than_asked_for_is_not_taken(tmp_path, archive):
    with serving(archive, breaks=1, breaks_after=2 * module.CHUNK_BYTES, shift=7) as server:
        fetch("heart", tmp_path, server.url)
        assert ["Range" in headers for headers in server.asked] == [False, True, False]
    assert_whole(tmp_path)


def test_a_wrong_byte_is_found_before_anything_is_unpacked(tmp_path, archive):
    wrong = bytearray(archive)
    wrong[70_000] ^= 1
    with serving(bytes(wrong)) as server:
        message = refusal(InputError, "heart", tmp_path, server.url)
        assert "not the published archive" in message and TASKS[NAME].md5 in message and "run it again" in message
        assert files(tmp_path) == set()  # or the next call would go on behind what is wrong
        server.habits.content = archive
        fetch("heart", tmp_path, server.url)
    assert_whole(tmp_path)


def test_a_missing_file_is_not_asked_for_twice(tmp_path, archive):
    with serving(archive, failures=9, status=404) as server:
        message = refusal(InputError, "heart", tmp_path, server.url)
        assert len(server.asked) == 1
    assert server.url in message and "404 Not Found" in message and files(tmp_path) == set()


def test_a_busy_server_is_asked_again(tmp_path, archive):
    with serving(archive, failures=2, status=503) as server:
        fetch("heart", tmp_path, server.url)
        assert len(server.asked) == 3
    assert_whole(tmp_path)


def test_a_server_that_stays_busy_is_given_up(tmp_path, archive):
    with serving(archive, failures=99, status=503) as server:
        message = refusal(WorkFailed, "heart", tmp_path, server.url)
        assert len(server.asked) == 3
    assert "503 Service Unavailable, 3 times in a row" in message


def test_nobody_at_the_address_is_a_failure_of_the_work(tmp_path, archive):
    assert "cannot be reached, 3 times in a row" in refusal(WorkFailed, "heart", tmp_path, "http://127.0.0.1:1/x.tar")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("url", ["heart.tar", "file:///tmp/heart.tar", "http://", "https://[::1/x"])
def test_what_is_no_address_is_refused(tmp_path, archive, url):
    assert refusal(InputError, "heart", tmp_path, url).startswith(url)


def test_a_length_that_is_too_long_ends_in_one_line_or_well(tmp_path, archive):
    with serving(archive, length=lambda body: len(body) + 5) as server:
        assert "broke off, 3 times in a row" in refusal(WorkFailed, "heart", tmp_path, server.url)
        assert not (tmp_path / NAME).exists()
        server.habits.length = len
        fetch("heart", tmp_path, server.url)
    assert_whole(tmp_path)


def test_a_length_that_is_too_short_is_found_by_the_sum(tmp_path, archive):
    with serving(archive, length=lambda body: len(body) - 512) as server:
        assert "not the published archive" in refusal(InputError, "heart", tmp_path, server.url)
    assert files(tmp_path) == set()


def test_an_absurd_length_is_refused_before_a_byte_is_written(tmp_path, archive):
    with serving(archive, length=lambda body: 10**15) as server:
        assert "1000000.0 GB" in refusal(InputError, "heart", tmp_path, server.url)
    assert files(tmp_path) == set()


def test_a_body_without_length_and_end_is_cut(tmp_path, archive):
    with serving(archive * 2, length=None) as server:
        assert "another file" in refusal(InputError, "heart", tmp_path, server.url)
    assert files(tmp_path) == set()


def test_a_body_without_length_is_taken(tmp_path, archive):
    with serving(archive, length=None) as server:
        fetch("heart", tmp_path, server.url)
    assert_whole(tmp_path)


def test_a_full_disk_is_seen_before(tmp_path, archive, monkeypatch):
    free = 2 * len(archive) - 1
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with serving(archive) as server:
        message = refusal(InputError, "heart", tmp_path, server.url)
    assert str(tmp_path) in message and "are needed" in message and files(tmp_path) == set()


def test_what_breaks_while_unpacking_goes_on_without_fetching_again(tmp_path, archive, monkeypatch):
    with monkeypatch.context() as patched, serving(archive) as server:
        patched.setattr(tarfile.TarFile, "extract", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space")))
        assert "No space" in refusal(InputError, "heart", tmp_path, server.url)
    assert files(tmp_path) == {f"{NAME}.tar.part", f"{NAME}.tar.part.json"}
    fetch("heart", tmp_path, "http://127.0.0.1:1/")
    assert_whole(tmp_path)


def test_a_complete_part_of_unknown_length_is_known_by_the_servers_answer(tmp_path, archive, monkeypatch):
    with serving(archive, length=None) as server:
        with monkeypatch.context() as patched:
            patched.setattr(tarfile.TarFile, "extract", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space")))
            refusal(InputError, "heart", tmp_path, server.url)
        fetch("heart", tmp_path, server.url)
        assert server.asked[1]["Range"] == f"bytes={len(archive)}-" and len(server.asked) == 2  # answered by 416
    assert_whole(tmp_path)


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


@pytest.mark.parametrize(
    "trick",
    [
        member("../../x", size=4),
        member(f"{NAME}/../../x", size=4),
        member(f"{NAME}/._a/../../../x", size=4),
        member("/tmp/r2d2-x", size=4),
        member("Task03_Liver/x", size=4),
        member(f"{NAME}/x", tarfile.SYMTYPE, "/etc"),
        member(f"{NAME}/x", tarfile.SYMTYPE, "dataset.json"),
        member(f"{NAME}/x", tarfile.LNKTYPE, "../../x"),
        member(f"{NAME}/x", tarfile.LNKTYPE, f"{NAME}/dataset.json"),
        member(f"{NAME}/x", tarfile.CHRTYPE),
        member(f"{NAME}/x", tarfile.FIFOTYPE),
    ],
    ids=lambda trick: f"{trick.name} {trick.type.decode()} {trick.linkname}",
)
def test_tricks_in_an_archive_leave_nothing_inside_or_outside(tmp_path, monkeypatch, trick):
    content = publish(monkeypatch, tar(look_alike(), [trick]))
    folder = tmp_path / "inner" / "data"
    with serving(content) as server:
        message = refusal(InputError, "heart", folder, server.url)
    assert repr(trick.name) in message and "nothing was unpacked" in message
    assert not (folder / NAME).exists()
    assert files(tmp_path) == {f"inner/data/{NAME}.tar.part", f"inner/data/{NAME}.tar.part.json"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no archive at all" * 100, "not a whole tar archive"),
        (tar(look_alike())[:150_000], "not a whole tar archive"),
        (tar({f"{NAME}/x": b"abc"}), "holds no Task02_Heart/dataset.json"),
        (tar({f"{NAME}/x": b"abc", f"{NAME}/x/dataset.json": b"{}"}), "cannot be made"),
        (tar({f"{NAME}/{'x' * 300}": b"abc"}), "cannot be made"),
    ],
    ids=["not tar", "truncated", "no dataset.json", "file as folder", "long name"],
)
def test_what_is_no_task_is_refused_and_not_there(tmp_path, monkeypatch, content, said):
    publish(monkeypatch, content)
    with serving(content) as server:
        assert said in refusal(InputError, "heart", tmp_path, server.url)
    assert not (tmp_path / NAME).exists()


def header_that_declares(kind, size):
    made = member(f"{NAME}/x", kind)
    made.size = size
    return made.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_absurd_sizes_in_an_archive_are_refused(tmp_path, monkeypatch, kind):
    content = publish(monkeypatch, header_that_declares(kind, 2**60) + bytes(10240))
    with serving(content) as server:
        refusal(InputError, "heart", tmp_path, server.url)
    assert not (tmp_path / NAME).exists()


def test_a_second_fetch_of_the_same_task_is_refused(tmp_path, archive):
    with (tmp_path / f"{NAME}.tar.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another fetch is writing it" in refusal(InputError, "heart", tmp_path, "http://127.0.0.1:1/")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, archive):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refusal(InputError, "heart", tmp_path / "file" / "data", "http://127.0.0.1:1/")


def test_progress_tells_what_is_done_of_how_much(tmp_path, archive):
    told = []
    with serving(archive) as server:
        fetch("heart", tmp_path, server.url, progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(what for what, _, _ in told)) == [
        "Megabytes fetched",
        "Megabytes checked",
        "Megabytes unpacked",
    ]
    assert all(0 <= done <= total for _, done, total in told)
    assert {what for what, done, total in told if done == total} == {what for what, _, _ in told}
