"""NIfTI-1 and NIfTI-2: one file, plain or gzipped, or a header and its .img."""

import io
import logging
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from numpy.typing import DTypeLike

from r2d2.errors import InputError
from r2d2.files import whole_file
from r2d2.imgmed.checks import MAX_RATIO, check_affine, check_room, check_voxels, file_size
from r2d2.imgmed.volume import Volume

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")
GZIP_MAGIC = b"\x1f\x8b"
HEADER_BYTES = 540
HEADERS = {348: (Nifti1Header, Nifti1PairHeader), 540: (Nifti2Header, Nifti2PairHeader)}
# nibabel logs what it mends in a header, and what it raises too; people get our one line instead.
SILENT = logging.Logger("r2d2.imgmed", level=logging.CRITICAL + 1)
# Where the voxels lie in space, in the fields of a NIfTI header; everything else there may speak of the patient.
PLACE_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
)


def files(path: Path) -> tuple[Path, ...]:
    """Return the file itself, or the header and the data of a pair."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return (path,)
    upper = path.suffix.isupper()
    return path.with_suffix(".HDR" if upper else ".hdr"), path.with_suffix(".IMG" if upper else ".img")


def geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine from the header; the file's size must fit them."""
    parts = files(path)
    first, last = parts[0], parts[-1]
    file_size(first)
    with first.open("rb") as file:
        start = file.read(len(GZIP_MAGIC))
        file.seek(0)
        zipped = start == GZIP_MAGIC
        head = igzip.GzipFile(fileobj=file).read(HEADER_BYTES) if zipped else file.read(HEADER_BYTES)
    header = _header(head, path)
    _needed(header, file_size(last, first), zipped, last)
    return _shape(header, path), check_affine(header.get_best_affine(), path)


def read(path: Path, dtype: DTypeLike | None) -> Volume:
    """Return the volume in a type, or with None in that of its scaled values."""
    first, *rest = files(path)
    file_size(first)
    content = first.read_bytes()
    zipped = content[:2] == GZIP_MAGIC
    header = _header(_unzip(content, HEADER_BYTES) if zipped else content[:HEADER_BYTES], path)
    shape = _shape(header, path)
    for data in rest:
        needed = _needed(header, file_size(data, first), False, data)
        content = data.read_bytes()
    if not rest:
        needed = _needed(header, len(content), zipped, path)
    if zipped:
        content = _unzip(content, needed)
        if len(content) < needed:
            raise InputError(f"{path}: the header declares {needed} bytes, decompressed it holds {len(content)}")
    if header.get_slope_inter() in ((None, None), (1, 0)):  # spares the copy that nibabel makes
        stored = np.frombuffer(content, header.get_data_dtype(), math.prod(shape), int(header.get_data_offset()))
        voxels = stored.astype(stored.dtype.newbyteorder("=") if dtype is None else dtype)
    else:
        voxels = np.asarray(ArrayProxy(io.BytesIO(content), header), dtype=dtype)
    voxels = voxels.reshape(shape, order="F")
    return Volume(voxels, check_affine(header.get_best_affine(), path), header)


def write(volume: Volume, path: Path) -> None:
    """Write .nii or .nii.gz."""
    content = _image(volume).to_bytes()
    if path.suffix == ".gz":
        content = igzip.compress(content, 2, mtime=0)
    with whole_file(path) as beside:
        beside.write_bytes(content)


def _unzip(content: bytes, needed: int) -> bytes:
    """Return the first bytes that gzip members hold, `needed` or what there is, and perhaps one more.

    That one more is asked for, so that the end of the last member and its checksum are reached.
    """
    pieces: list[bytes] = []
    while content[:2] == GZIP_MAGIC and needed >= 0:
        member = isal_zlib.decompressobj(wbits=31)
        pieces.append(member.decompress(content, needed + 1))
        needed -= len(pieces[-1])
        if not member.eof and needed >= 0:
            raise EOFError
        content = member.unused_data
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _header(head: bytes, path: Path) -> Nifti1Header:
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    size = next((size for size in sizes if size in HEADERS), 0)
    if not size or len(head) < size:
        raise InputError(f"{path}: not a NIfTI file (it does not start with a NIfTI header)")
    pair = len(files(path)) == 2
    header = HEADERS[size][pair](head[:size], check=False)
    header.check_fix(logger=SILENT)
    if not header["magic"].item().startswith(b"ni" if pair else b"n+"):
        said = "the header of a pair (.hdr, .img)" if pair else "a NIfTI file of one piece (.nii, .nii.gz)"
        raise InputError(f"{path}: not {said} by its magic {header['magic'].item()!r}")
    return header


def _shape(header: Nifti1Header, path: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # a moment in time, then vectors: what ITK writes channels as
        shape = (*shape[:3], shape[4])
    return check_voxels(shape, header.get_data_dtype(), path)


def _needed(header: Nifti1Header, size: int, zipped: bool, path: Path) -> int:
    """Return the bytes up to the last voxel; raise if a file of `size` bytes cannot hold them."""
    shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
    needed = int(header.get_data_offset()) + math.prod(shape) * dtype.itemsize
    check_room(shape, dtype, needed, size * (MAX_RATIO if zipped else 1), path)
    return needed


def _image(volume: Volume) -> nib.Nifti1Image:
    kind = nib.Nifti2Image if isinstance(volume.header, Nifti2Header) else nib.Nifti1Image
    header = kind.header_class()
    if volume.header is None:
        header.set_xyzt_units("mm")
        header.set_data_dtype(volume.data.dtype)
        return kind(volume.data, volume.affine, header)
    for field in PLACE_FIELDS:
        header[field] = volume.header[field]
    header.set_data_dtype(volume.data.dtype)
    image = kind(volume.data, volume.affine, header)
    sform, qform = int(volume.header["sform_code"]), int(volume.header["qform_code"])
    if (sform or qform) and not np.allclose(volume.header.get_best_affine(), volume.affine):
        image.set_sform(volume.affine, sform or qform)
        image.set_qform(volume.affine, qform)
    return image
