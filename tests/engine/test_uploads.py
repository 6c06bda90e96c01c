"""What strangers upload: taken for what is in it, without the person, or refused in a sentence; and gone again."""

import gzip
import io
import os
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from helpers.dicoms import oblique_affine, write_series
from helpers.processes import wait_for

from r2d2 import imgmed
from r2d2.engine import uploads
from r2d2.errors import InputError

SCAN = np.random.default_rng(0).normal(100, 10, (6, 5, 4)).astype(np.float32)
AFFINE = np.diag([3.0, 2.0, 1.0, 1.0])


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where private folders are made here; every test leaves it empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not [*folder.iterdir()]


def nifti(data=SCAN, affine=AFFINE, person=b""):
    image = nib.Nifti1Image(data, affine)
    image.header["descrip"] = person
    if person:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", person))
    return image.to_bytes()


def zipped(*entries):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries:
            opened.writestr(name, content)
    return made.getvalue()


def refusal(*contents):
    with pytest.raises(InputError) as caught:
        uploads.read(contents)
    told = str(caught.value)
    assert "\n" not in told and tempfile.gettempdir() not in told
    return told


def test_a_file_is_taken_for_what_is_in_it(tmp_path):
    series = write_series(tmp_path / "s", SCAN.astype(np.int16), oblique_affine())
    dicom = zipped(
        ("DOE^JANE/", b""), *((f"DOE^JANE/{path.name}", path.read_bytes()) for path in series), ("a.txt", b"a")
    )
    for content in (nifti(), gzip.compress(nifti())):
        found = uploads.read([content])
        np.testing.assert_array_equal(found.data, SCAN)
        np.testing.assert_array_equal(found.affine, AFFINE)
    found = uploads.read([dicom])
    np.testing.assert_array_equal(found.data, SCAN.astype(np.int16))
    np.testing.assert_allclose(found.affine, oblique_affine(), atol=1e-6)
    assert uploads.read([nifti(), nifti(SCAN + 1)]).data.shape == (6, 5, 4, 2)


def test_what_nifti_says_of_the_person_is_in_nothing_that_is_made_of_it(tmp_path):
    found = uploads.read([nifti(person=b"DOE^JANE")])
    imgmed.write_volume(found, tmp_path / "again.nii")
    assert b"DOE" not in (tmp_path / "again.nii").read_bytes()


def test_what_is_no_scan_is_refused_in_a_sentence(tmp_path):
    one = write_series(tmp_path / "s", SCAN.astype(np.int16), oblique_affine())[0].read_bytes()
    for content, rule in (
        (b"<html><script>alert(1)</script>", "file 1: neither NIfTI"),
        (b"", "file 1: neither NIfTI"),
        (gzip.compress(b"no scan"), "file 1: not a NIfTI file"),
        (nifti()[:500], "file 1: "),
        (gzip.compress(nifti())[:-40], "file 1: "),
        (one, "file 1: one DICOM file; zip the folder of its series"),
        (zipped(("a.nii.gz", nifti())), "file 1: a zip without a DICOM image in it"),
        (b"PK\x03\x04 and nothing else", "file 1: not a sound zip file"),
    ):
        assert refusal(content).startswith(rule)
    assert refusal(nifti(), nifti(SCAN[:3])).startswith("file 2: 3x5x4, file 1 is 6x5x4")
    assert refusal(*[nifti()] * 17).startswith("17 files; a scan is one, or one for each of at most 16")


def test_sizes_are_refused_before_anything_is_unpacked(monkeypatch):
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), AFFINE).header
    header.set_data_shape((2000, 2000, 100))
    bomb = header.binaryblock + b"\0" * 4 + bytes(400_000_000)
    small = gzip.compress(bomb, 9)
    assert len(small) < 500_000
    assert "2000x2000x100 voxels, more than the 268435456" in refusal(small)
    assert "unpack to 3000000000, more than the 2147483648" in refusal(_zip_of_zeros(3_000_000_000))
    lying = _zip_of_zeros(10, 300_000_000)
    assert len(lying) < 500_000
    tracemalloc.start()
    assert refusal(lying) == "file 1: not a sound zip file, an entry cannot be unpacked; zip the folder again"
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    swelling = io.BytesIO()  # ten million bytes in fifty, which Python would unpack whole
    with zipfile.ZipFile(swelling, "w", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("DOE", bytes(10_000_000))
    assert refusal(swelling.getvalue()) == (
        "file 1: an entry is packed by another method than deflate; it is not unpacked"
    )
    monkeypatch.setattr(uploads, "LARGEST_MB", 0)
    assert refusal(nifti() + bytes(1 << 20)) == "file 1: 1 MB, more than the 0 that a file may have"


def _zip_of_zeros(size, unpacked=1000):
    """A zip of a few bytes whose directory declares this size, as a bomb's would, whatever is in it."""
    content = bytearray(zipped(("zeros", bytes(unpacked))))
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = size.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_leads_out_or_lies_is_refused_without_its_names(tmp_path):
    secret = tmp_path / "tmp" / "evil"
    assert refusal(zipped(("../../DOE", b"x"))) == "file 1: an entry leads out of the folder; it is not unpacked"
    assert refusal(zipped(("DOE", b"x"), ("DOE", b"y"))) == "file 1: an entry is there twice; it is not unpacked"
    link = zipfile.ZipInfo("DOE")
    link.external_attr = 0o120777 << 16
    assert "DOE" not in refusal(zipped((link, str(secret))))
    damaged = bytearray(zipped(("DOE", os.urandom(3000))))
    damaged[500] ^= 255
    assert "an entry cannot be unpacked" in refusal(bytes(damaged))


def test_a_private_folder_is_its_owners_alone_and_gone_whatever_happens(temporary):
    with pytest.raises(ZeroDivisionError), uploads.private_folder() as folder:
        (folder / "scan").write_bytes(b"x")
        assert folder.stat().st_mode & 0o777 == 0o700
        with uploads.private_folder() as other:  # which sweeps, and leaves a living one's alone
            assert other != folder and (folder / "scan").exists()
        raise ZeroDivisionError
    assert not folder.exists()


def test_nobody_sweeps_a_folder_away_that_another_is_just_making(temporary):
    together = threading.Barrier(8)

    def enter(_):
        kept = 0
        for _ in range(20):
            together.wait(30)
            with uploads.private_folder() as folder:
                (folder / "scan").touch()
                together.wait(30)
                kept += (folder / "scan").exists()
        return kept

    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(enter, range(8))] == [20] * 8


def test_what_a_killed_server_left_goes_with_the_next_upload(temporary):
    script = (
        "import tempfile, time; from r2d2.engine import uploads\n"
        f"tempfile.tempdir = {str(temporary)!r}\n"
        "with uploads.private_folder() as folder:\n (folder / 'scan').touch(); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_for(lambda: [*temporary.glob("*/scan")], 60, process)
    uploads.sweep()
    assert [*temporary.glob("*/scan")]
    process.kill()
    process.wait()
    uploads.sweep()
    assert not [*temporary.iterdir()]
