"""Bad files, made here: each is refused in one line by every reader, in little memory, soon, and without a crash."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest
from helpers.dicoms import oblique_affine, write_contours, write_segments, write_series
from isal import igzip, isal_zlib
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

AFFINE = oblique_affine()
VOXELS = np.random.default_rng(0).integers(0, 200, (8, 7, 6)).astype(np.int16)
NIFTI = nib.Nifti1Image(VOXELS, AFFINE).to_bytes()
NIFTI2 = nib.Nifti2Image(VOXELS, AFFINE).to_bytes()
META = {
    **{"ObjectType": "Image", "NDims": "3", "DimSize": "8 7 6", "ElementType": "MET_SHORT"},
    **{"ElementSpacing": "3 2 1.5", "ElementDataFile": "LOCAL"},
}
NRRD = {
    **{"type": "short", "dimension": "3", "sizes": "8 7 6", "endian": "little", "encoding": "raw"},
    **{"space": "left-posterior-superior", "space directions": "(3,0,0) (0,2,0) (0,0,1.5)"},
}
RAW = VOXELS.tobytes(order="F")


def changed(place, code, *values, content=NIFTI):
    size = struct.calcsize(code)
    return content[:place] + struct.pack(code, *values) + content[place + size :]


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def typed(dtype):
    return nib.Nifti1Image(np.zeros((8, 7, 6), dtype), AFFINE).to_bytes()


def meta(voxels=RAW, **fields):
    head = {key: value for key, value in (META | fields).items() if value is not None}
    if "ElementDataFile" in head:
        head["ElementDataFile"] = head.pop("ElementDataFile")
    return "".join(f"{key} = {value}\n" for key, value in head.items()).encode() + voxels


def nrrd(voxels=RAW, magic="NRRD0004", end=("", ""), **fields):
    head = {key: value for key, value in (NRRD | fields).items() if value is not None}
    return "\n".join([magic, *(f"{key}: {value}" for key, value in head.items()), *end]).encode() + voxels


def png(width, height, body=b"", bits=8, colour=0):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def picture(suffix):
    return cv2.imencode(suffix, np.random.default_rng(0).integers(0, 255, (50, 40), np.uint8))[1].tobytes()


def tiff(width, height):
    content = bytearray(picture(".tif"))
    start = int.from_bytes(content[4:8], "little")
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], "little"), 12):
        tag = int.from_bytes(content[entry : entry + 2], "little")
        if tag in (256, 257):
            content[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    return bytes(content)


def jpeg(width, height):
    content = picture(".jpg")
    place = content.index(b"\xff\xc0")
    return changed(place + 5, ">HH", height, width, content=content)


FILES = {
    # NIfTI
    "empty.nii": b"",
    "empty.nii.gz": b"",
    "header_cut.nii": NIFTI[:200],
    "header_alone.nii": NIFTI[:352],
    "voxels_cut.nii": NIFTI[:-1],
    "header2_cut.nii": NIFTI2[:400],
    "voxels2_cut.nii": NIFTI2[:-1],
    "zeros.nii": bytes(2000),
    "text.nii": b"no scan at all\n" * 50,
    "wrong_magic.nii": changed(344, "4s", b"xyz\0"),
    "magic_of_a_pair.nii": changed(344, "4s", b"ni1\0"),
    "wrong_header_size.nii": changed(0, "<i", 347),
    "terabytes.nii": changed(42, "<3h", 32767, 32767, 32767),
    "terabytes.nii.gz": igzip.compress(changed(42, "<3h", 32767, 32767, 32767)),
    "exabytes2.nii": changed(16, "<8q", 3, 1 << 30, 1 << 30, 1 << 30, 1, 1, 1, 1, content=NIFTI2),
    "negative_dims.nii": changed(42, "<3h", -8, 7, 6),
    "zero_dims.nii": changed(42, "<3h", 8, 0, 6),
    "nine_axes.nii": changed(40, "<h", 9),
    "no_axes.nii": changed(40, "<h", 0),
    "two_axes.nii": changed(40, "<h", 2),
    "nan_affine.nii": changed(280, "<f", float("nan")),
    "infinite_affine.nii": changed(292, "<f", float("inf")),
    "singular_affine.nii": changed(280, "<12f", *[1.0] * 12),
    "unknown_type.nii": changed(70, "<h", 999),
    "bits_as_type.nii": changed(70, "<hh", 1, 1),
    "complex.nii": typed(np.complex64),
    "rgb.nii": typed(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])),
    "offset_beyond.nii": changed(108, "<f", 1e9),
    "offset_nan.nii": changed(108, "<f", float("nan")),
    "gz_cut.nii.gz": igzip.compress(NIFTI)[:-300],
    "gz_cut_in_header.nii.gz": igzip.compress(NIFTI)[:30],
    "gz_flipped.nii.gz": flipped(igzip.compress(NIFTI), 500),
    "gz_wrong_checksum.nii.gz": flipped(igzip.compress(NIFTI), -8),
    "gz_holds_less.nii.gz": igzip.compress(NIFTI[:-100]),
    "gz_of_text.nii.gz": igzip.compress(b"no scan" * 100),
    "header_without_image.hdr": changed(344, "4s", b"ni1\0")[:352],
    # MetaImage
    "empty.mha": b"",
    "text.mha": b"no scan at all\n" * 50,
    "no_data_file.mha": meta(ElementDataFile=None),
    "voxels_cut.mha": meta(RAW[:-1]),
    "terabytes.mha": meta(DimSize="100000 100000 1000"),
    "terabytes_zipped.mha": meta(isal_zlib.compress(RAW), DimSize="100000 100000 1000", CompressedData="True"),
    "negative_dims.mha": meta(DimSize="-8 -7 6"),
    "words_for_dims.mha": meta(DimSize="a b c"),
    "too_few_dims.mha": meta(DimSize="8 7"),
    "many_dims.mha": meta(NDims="1000000000", DimSize="8 7 6"),
    "unknown_type.mha": meta(ElementType="MET_STRING"),
    "absurd_channels.mha": meta(ElementNumberOfChannels="1000000000"),
    "singular_affine.mha": meta(TransformMatrix="1 0 0 1 0 0 0 0 1"),
    "nan_affine.mha": meta(Offset="nan 0 0"),
    "zero_spacing.mha": meta(ElementSpacing="3 0 1.5"),
    "zipped_flipped.mha": meta(flipped(isal_zlib.compress(RAW), 100), CompressedData="True"),
    "zipped_cut.mha": meta(isal_zlib.compress(RAW)[:-50], CompressedData="True"),
    "zipped_holds_more.mha": meta(isal_zlib.compress(RAW + bytes(1 << 20)), CompressedData="True"),
    "raw_outside.mhd": meta(b"", ElementDataFile="../outside.raw"),
    "raw_absolute.mhd": meta(b"", ElementDataFile="/etc/hostname"),
    "raw_missing.mhd": meta(b"", ElementDataFile="none.raw"),
    "raw_short.mhd": meta(b"", ElementDataFile="short.raw"),
    "raw_is_a_folder.mhd": meta(b"", ElementDataFile="folder.raw"),
    "raw_is_a_pipe.mhd": meta(b"", ElementDataFile="pipe.raw"),
    "raw_beyond.mhd": meta(b"", ElementDataFile="short.raw", HeaderSize="1000000000"),
    # NRRD
    "empty.nrrd": b"",
    "wrong_magic.nrrd": nrrd(magic="NRXD0004"),
    "voxels_cut.nrrd": nrrd(RAW[:-1]),
    "header_cut.nrrd": nrrd()[:60],
    "terabytes.nrrd": nrrd(sizes="100000 100000 1000"),
    "terabytes_zipped.nrrd": nrrd(igzip.compress(RAW), sizes="100000 100000 1000", encoding="gzip"),
    "negative_sizes.nrrd": nrrd(sizes="-8 7 -6"),
    "unknown_encoding.nrrd": nrrd(encoding="zstd"),
    "unknown_type.nrrd": nrrd(type="block"),
    "no_endian.nrrd": nrrd(endian=None),
    "nan_affine.nrrd": nrrd(**{"space directions": "(nan,0,0) (0,2,0) (0,0,1)"}),
    "flat_affine.nrrd": nrrd(**{"space directions": "(1,0,0) (1,0,0) (0,0,1)"}),
    "short_vectors.nrrd": nrrd(**{"space directions": "(1,0) (0,1) (0,0)"}),
    "zipped_flipped.nrrd": nrrd(flipped(igzip.compress(RAW), 100), encoding="gzip"),
    "zipped_bomb.nrrd": nrrd(igzip.compress(bytes(1 << 26)), encoding="gzip"),
    "data_outside.nhdr": nrrd(b"", **{"data file": "../outside.raw"}),
    "data_short.nhdr": nrrd(b"", **{"data file": "short.raw"}),
    "line_skip.nrrd": nrrd(**{"line skip": "-5"}),
    # pictures
    "empty.png": b"",
    "cut.png": picture(".png")[:-300],
    "flipped.png": flipped(picture(".png"), 300),
    "bomb.png": png(2_000_000_000, 2_000_000_000),
    "large_bomb.png": png(60_000, 60_000, bytes(100), 16, 2),
    "zero_width.png": png(0, 50),
    "cut.jpg": picture(".jpg")[:-500],
    "bomb.jpg": jpeg(65_000, 65_000),
    "cut.tif": picture(".tif")[:-200],
    "bomb.tif": tiff(1_000_000, 1_000_000),
    "text.tif": b"no picture",
    # other
    "arrays.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (2,), }" + b" " * 60,
    "single.dcm": b"\0" * 128 + b"DICM",
}


def first_slice(folder, change):
    """Write a series whose fourth slice is changed: its bytes, or its header."""
    path = write_series(folder, VOXELS, AFFINE)[3]
    if (made := change(path)) is not None:
        path.write_bytes(made)


def retagged(**tags):
    def change(path):
        header = pydicom.dcmread(path)
        for tag, value in tags.items():
            if value is None:
                del header[tag]
            else:
                setattr(header, tag, value)
        header.save_as(path)

    return change


def alone(source, end):
    """Leave one slice in the folder, a file's bytes up to `end`."""

    def change(path):
        for other in path.parent.iterdir():
            other.unlink()
        return Path(source).read_bytes()[:end]

    return change


def cut_last(path, size):
    last = path.with_name("slice05.dcm")
    last.write_bytes(last.read_bytes()[:size])


def replaced(old, new):
    def change(path):
        content = path.read_bytes()
        assert content.count(old) == 1
        return content.replace(old, new)

    return change


def of_syntax(syntax):
    def change(path):
        content = path.read_bytes()
        old = b"1.2.840.10008.1.2.1\0"
        place, new = content.index(old), syntax.encode() + b"\0" * (len(syntax) % 2)
        head = content[: place - 2] + struct.pack("<H", len(new)) + new + content[place + len(old) :]
        group = head.index(b"\x02\0\0\0UL\x04\0") + 8
        length = struct.unpack("<I", head[group : group + 4])[0] + len(new) - len(old)
        return head[:group] + struct.pack("<I", length) + head[group + 4 :]

    return change


FOLDERS = {
    "no_files": None,
    "slice_cut_in_header": lambda path: path.read_bytes()[:400],
    "slice_cut_in_pixels": lambda path: path.read_bytes()[:-10],
    "slice_cut_after_mark": lambda path: path.read_bytes()[:134],
    "slice_empty": lambda path: b"",
    "slice_without_mark": lambda path: b"no slice" * 100,
    "slice_with_a_bad_uid": replaced(generate_uid(entropy_srcs=["series"]).encode()[:60], b"1.2\n" + b"x" * 56),
    "slice_without_pixels": retagged(PixelData=None),
    "slice_missing": lambda path: path.unlink(),
    "slice_doubled": lambda path: shutil.copy(path, path.with_name("again.dcm")) and None,
    "slice_of_another_size": retagged(Rows=6),
    "slice_turned": retagged(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]),
    "slice_of_other_spacing": retagged(PixelSpacing=[1.0, 1.0]),
    "slice_of_another_series": retagged(SeriesInstanceUID=generate_uid(entropy_srcs=["x"])),
    "slice_without_position": retagged(ImagePositionPatient=None),
    "slice_beside_the_others": retagged(ImagePositionPatient=["50", "60", "70"]),
    "slice_of_terabytes": retagged(Rows=65535, Columns=65535),
    "slices_compressed_and_cut": alone(get_testdata_file("MR_small_jp2klossless.dcm"), -1500),
    "last_slice_cut_in_header": lambda path: cut_last(path, 400),
    "last_slice_cut_after_mark": lambda path: cut_last(path, 134),
    "slice_deflated": of_syntax(DeflatedExplicitVRLittleEndian),
    "slice_of_unknown_syntax": of_syntax("1.2.3.4.5.6.7.8.9"),
    "slice_in_colour": retagged(SamplesPerPixel=3),
    "slice_of_nan": replaced(b"-16.9", b"  nan"),
    "slice_with_words_for_slope": replaced(b"\x28\x00\x53\x10DS\x04\x001.0 ", b"\x28\x00\x53\x10DS\x04\x00abc "),
}


def make_masks(folder):
    """Contours and segments beside a sound series."""
    series = folder / "sound"
    slices = write_series(series, VOXELS, AFFINE)
    square = [(1, 1, 2), (4, 1, 2), (4, 4, 2), (1, 4, 2)]
    rt = write_contours(folder / "sound_rt", [("a", [square])], AFFINE).read_bytes()
    seg = write_segments(folder / "sound_seg", slices, {"a": VOXELS > 100}).read_bytes()
    far = write_contours(folder / "far", [("a", [[(1e6, 1e6, 1e6), (2e6, 1e6, 1e6), (1e6, 2e6, 1e6)]])], AFFINE)
    coordinate = np.asarray(pydicom.dcmread(folder / "sound_rt").ROIContourSequence[0].ContourSequence[0].ContourData)
    first = f"{coordinate[0]:.6f}".encode()
    large = pydicom.dcmread(folder / "sound_seg")
    large.Rows = large.Columns = 65535
    large.save_as(folder / "large")
    masks = {
        "cut.rt": rt[: len(rt) // 2],
        "empty.rt": b"",
        "text.rt": b"no contours" * 100,
        "nan.rt": rt.replace(first, b"nan".ljust(len(first))),
        "words.rt": rt.replace(first, b"abc".ljust(len(first))),
        "far.rt": far.read_bytes(),
        "is_a_seg.rt": seg,
        "line_break.rt": rt.replace(b"1.481.3", b"1.481\n3"),
        "cut.seg": seg[: len(seg) // 2],
        "pixels_cut.seg": seg[:-20],
        "empty.seg": b"",
        "terabytes.seg": (folder / "large").read_bytes(),
        "is_an_rt.seg": rt,
    }
    for name, content in masks.items():
        (folder / name).write_bytes(content)
        (folder / f"{name}.series").symlink_to(series)
    return list(masks)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each reader said to each file, and that nothing else came to be."""
    root = tmp_path_factory.mktemp("bad")
    folder = root / "in"
    folder.mkdir()
    (root / "outside.raw").write_bytes(RAW)
    (folder / "short.raw").write_bytes(RAW[:-2])
    (folder / "folder.raw").mkdir()
    os.mkfifo(folder / "pipe.raw")
    os.mkfifo(folder / "pipe.nii.gz")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    for name, change in FOLDERS.items():
        if change is None:
            (folder / name).mkdir()
        else:
            first_slice(folder / name, change)
    names = [*FILES, *FOLDERS, "pipe.nii.gz", "not_there.mha", *make_masks(folder)]
    before = sorted(path for path in root.rglob("*"))
    script = Path(__file__).parents[1] / "helpers" / "read_bad_files.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps([str(folder / name) for name in names]),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path for path in root.rglob("*")) == before
    found = {}
    for key, answer in json.loads(done.stdout).items():
        path, how = key.rsplit(" ", 1)
        found.setdefault(Path(path).name, {})[how] = answer
    return folder, found


HEADER_IS_SOUND = {
    *("gz_cut.nii.gz", "gz_flipped.nii.gz", "gz_wrong_checksum.nii.gz", "gz_holds_less.nii.gz"),
    *("zipped_flipped.mha", "zipped_cut.mha", "zipped_holds_more.mha", "zipped_flipped.nrrd", "zipped_bomb.nrrd"),
    *("cut.png", "flipped.png", "cut.jpg", "cut.tif"),
    *("slice_cut_in_pixels", "slice_without_pixels", "slices_compressed_and_cut", "slice_with_words_for_slope"),
}
MASKS = (
    *("cut.rt", "empty.rt", "text.rt", "nan.rt", "words.rt", "far.rt", "is_a_seg.rt", "line_break.rt"),
    *("cut.seg", "pixels_cut.seg", "empty.seg", "terabytes.seg", "is_an_rt.seg"),
)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, "pipe.nii.gz", "not_there.mha", *MASKS])
def test_a_bad_file_is_refused_in_one_line(answers, name):
    folder, found = answers
    assert found[name]
    for how, (said, seconds) in found[name].items():
        if how == "geometry" and name in HEADER_IS_SOUND and said == "read":
            continue
        assert said.startswith("refused: "), (how, said)
        assert "\n" not in said and str(folder) in said and len(said) < 1000
        assert seconds < 10
