"""What is refused before it is unpacked."""

import stat
import zipfile

import pytest

from r2d2.errors import InputError
from r2d2.files import MOST_ENTRIES, check_zip


def _zip(path, *entries, how=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, content) pairs."""
    with zipfile.ZipFile(path, "w", how) as opened:
        for name, content in entries:
            opened.writestr(name, content)
    return path


def test_an_honest_zip_is_let_through(tmp_path):
    check_zip(_zip(tmp_path / "a.zip", ("folder/", b""), ("folder/a..b.json", b"12"), ("b", b"345")), 5)


def _damaged(path):
    """A zip in whose entry, which deflate has made smaller, some bytes are others."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[40:60] = b"\xff" * 20
    path.write_bytes(content)
    return path


def test_more_bytes_than_are_allowed_or_declared_are_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened,
        opened.open("zeros", "w", force_zip64=True) as file,
    ):
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"bomb.zip: \d+ bytes that unpack to 67108864, more than the 67108863"):
        check_zip(path, (64 << 20) - 1)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = (10 << 20).to_bytes(4, "little")  # a directory that lies
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a sound zip file"):
        check_zip(path, 10 << 20)
    with pytest.raises(InputError, match="not a sound zip file"):
        check_zip(_damaged(tmp_path / "damaged.zip"), 10 << 20)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "C:\\a", "a\\..\\..\\b", "\\\\host\\share\\a"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="leads out of the folder"):
        check_zip(_zip(tmp_path / "a.zip", ("good", b"1"), (name, b"2")), 100)


def test_links_doubled_names_and_crowds_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(InputError, match="'link' is a link"):
        check_zip(_zip(tmp_path / "a.zip", (link, b"/etc")), 100)
    with pytest.warns(UserWarning, match="Duplicate"):
        _zip(tmp_path / "b.zip", ("a", b"1"), ("a", b"2"))
    with pytest.raises(InputError, match="'a' is there twice"):
        check_zip(tmp_path / "b.zip", 100)
    with pytest.raises(InputError, match=f"holds {MOST_ENTRIES + 1} entries"):
        check_zip(_zip(tmp_path / "c.zip", *((str(n), b"") for n in range(MOST_ENTRIES + 1))), 100)


def test_what_is_no_zip_is_one_line(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    for name in ("a.zip", "none.zip"):
        with pytest.raises(InputError, match=f"{name}: "):
            check_zip(tmp_path / name, 100)
