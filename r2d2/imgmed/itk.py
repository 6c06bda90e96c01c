"""MetaImage and NRRD: a text header that is checked first, then voxels in the same file or in one beside it.

SimpleITK reads both, but takes damaged compressed data for good ones, and cannot give the last bit of a direction
back; tests hold what is read and written here against it.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from isal import isal_zlib
from numpy.typing import DTypeLike

from r2d2.errors import InputError
from r2d2.files import whole_file
from r2d2.imgmed.checks import MAX_RATIO, check_affine, check_room, check_voxels, file_size
from r2d2.imgmed.volume import LPS_TO_RAS, Volume

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
HEADER_BYTES = 1 << 20
META_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4"},  # on every machine
}
META_LINE = re.compile(rb"[ \t]*([A-Za-z]\w*)[ \t]*=([^\n]*)(?:\n|$)")
NRRD_NAMES = {
    "i1": ("int8", "int8_t", "signed char"),
    "u1": ("uint8", "uint8_t", "uchar", "unsigned char"),
    "i2": ("int16", "int16_t", "short", "short int", "signed short", "signed short int"),
    "u2": ("uint16", "uint16_t", "ushort", "unsigned short", "unsigned short int"),
    "i4": ("int32", "int32_t", "int", "signed int"),
    "u4": ("uint32", "uint32_t", "uint", "unsigned int"),
    "i8": ("int64", "int64_t", "longlong", "long long", "long long int", "signed long long", "signed long long int"),
    "u8": ("uint64", "uint64_t", "ulonglong", "unsigned long long", "unsigned long long int"),
    "f4": ("float",),
    "f8": ("double",),
}
NRRD_TYPES = {name: code for code, names in NRRD_NAMES.items() for name in names}
NRRD_SIGNS = {"left-posterior-superior": (-1, -1), "left-anterior-superior": (-1, 1), "right-anterior-superior": (1, 1)}
NRRD_SPACES = {"lps": "left-posterior-superior", "las": "left-anterior-superior", "ras": "right-anterior-superior"}
NRRD_DOMAINS = {"domain", "space", "time", "???", "none"}
VECTOR = re.compile(r"\(([^)]*)\)|none")


@dataclass(frozen=True)
class _Header:
    """What a header says: the axes as they lie in the file, the fastest first, and which of them counts channels."""

    sizes: tuple[int, ...]
    channel_axis: int | None
    dtype: np.dtype
    affine: np.ndarray
    data: Path
    offset: int | None
    """Where the voxels start in `data`; None: so that they end with it."""
    zipped: bool
    skip: int = 0
    """Bytes before the voxels in what is decompressed."""


def files(path: Path) -> tuple[Path, ...]:
    """Return the file itself, or the header and its data file."""
    data = _header(path).data
    return (path,) if data == path else (path, data)


def geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine from the header; the size of the data's file must fit them."""
    header = _header(path)
    return _shape(header, path), header.affine


def read(path: Path, dtype: DTypeLike | None) -> Volume:
    """Return the volume in a type, or with None in the file's own."""
    header = _header(path)
    shape = _shape(header, path)
    count, needed = math.prod(header.sizes), math.prod(header.sizes) * header.dtype.itemsize
    offset = header.data.stat().st_size - needed if header.offset is None else header.offset
    if header.zipped:
        with header.data.open("rb") as file:
            file.seek(offset)
            packed = file.read()
        stream = isal_zlib.decompressobj(wbits=47)  # zlib's or gzip's frame, with its checksum
        declared = header.skip + needed
        content = stream.decompress(packed, declared + 1)
        if not stream.eof and len(content) <= declared:
            raise EOFError
        if len(content) != declared:
            held = f"{len(content)}" if stream.eof else "more"
            raise InputError(f"{path}: the header declares {declared} bytes, decompressed it holds {held}")
        values = np.frombuffer(content, header.dtype, count, header.skip)
    else:
        values = np.fromfile(header.data, header.dtype, count, offset=offset)
    voxels = values.astype(header.dtype.newbyteorder("=") if dtype is None else dtype).reshape(header.sizes, order="F")
    if header.channel_axis is not None:
        voxels = np.moveaxis(voxels, header.channel_axis, -1)
    return Volume(voxels.reshape(shape, order="F"), header.affine)


def write(volume: Volume, path: Path) -> None:
    """Write .mha, .mhd with .raw, or gzipped .nrrd; channels as pixels of several components."""
    data = volume.data[..., 0] if volume.data.shape[3:] == (1,) else volume.data
    if data.ndim == 4:
        data = np.moveaxis(data, -1, 0)
    dtype = data.dtype.newbyteorder("<")
    types = NRRD_TYPES if path.suffix == ".nrrd" else META_TYPES
    name = next((name for name, code in types.items() if np.dtype(code) == data.dtype.newbyteorder("=")), None)
    if name is None or data.ndim not in (3, 4):
        raise InputError(f"{path}: {path.suffix} holds no {data.dtype} with {data.ndim} axes")
    voxels = data.astype(dtype, copy=False).tobytes(order="F")
    affine = LPS_TO_RAS @ volume.affine
    if path.suffix == ".nrrd":
        head = _nrrd_text(data.shape, name, affine)
        pieces = {path: head.encode() + isal_zlib.compress(voxels, 2, wbits=31)}
    elif path.suffix == ".mha":
        pieces = {path: _meta_text(data.shape, name, affine, "LOCAL").encode() + voxels}
    else:
        raw = path.with_suffix(".raw")
        pieces = {path: _meta_text(data.shape, name, affine, raw.name).encode(), raw: voxels}
    _write_together(pieces)


def _write_together(pieces: dict[Path, bytes]) -> None:
    """Write all files or none: they take their places when all are written, the last first."""
    if pieces:
        (path, content), *rest = pieces.items()
        with whole_file(path) as beside:
            beside.write_bytes(content)
            _write_together(dict(rest))


def _shape(header: _Header, path: Path) -> tuple[int, ...]:
    sizes = list(header.sizes)
    if header.channel_axis is not None:
        sizes.append(sizes.pop(header.channel_axis))
    return check_voxels(tuple(sizes), header.dtype, path)


def _header(path: Path) -> _Header:
    size = file_size(path)
    with path.open("rb") as file:
        content = file.read(HEADER_BYTES)
    header = _meta(content, path) if path.suffix.lower() in (".mha", ".mhd") else _nrrd(content, path)
    _shape(header, path)
    if header.data != path:
        size = file_size(header.data, path)
    needed = header.skip + math.prod(header.sizes) * header.dtype.itemsize
    offset = header.offset or 0
    if header.zipped:
        check_room(header.sizes, header.dtype, needed, (size - offset) * MAX_RATIO, header.data)
    else:
        check_room(header.sizes, header.dtype, offset + needed, size, header.data)
    return header


def _meta(content: bytes, path: Path) -> _Header:
    fields: dict[str, str] = {}
    place = 0
    while "ElementDataFile" not in fields:
        line = META_LINE.match(content, place)
        if line is None:
            raise InputError(f"{path}: not a MetaImage file (no header of KEY = VALUE lines up to ElementDataFile)")
        fields[line[1].decode()] = line[2].decode("latin-1").strip()
        place = line.end()
    dims = int(fields.get("NDims", "0"))
    sizes = tuple(int(n) for n in fields.get("DimSize", "").split())
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    kind = fields.get("ElementType", "")
    if not 3 <= dims <= 4 or len(sizes) != dims or min(sizes) < 1 or channels < 1 or (dims == 4 and channels > 1):
        raise InputError(
            f"{path}: a volume has 3 or 4 axes of at least 1 voxel, this one is {fields.get('DimSize')} with "
            f"{channels} channels (DimSize, ElementNumberOfChannels)"
        )
    if kind not in META_TYPES:
        raise InputError(f"{path}: voxels must be whole or real numbers, these are {kind or 'none'} (ElementType)")
    if not _true(fields.get("BinaryData", "True")):
        raise InputError(f"{path}: voxels as text are not read (BinaryData = False); export it as binary")
    big = _true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), np.eye(dims).ravel(), path)
    origin = _numbers(fields, ("Offset", "Position", "Origin"), np.zeros(dims), path)
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), np.ones(dims), path)
    affine = np.eye(4)
    affine[:3, :3] = matrix.reshape(dims, dims)[:3, :3].T * spacing[:3]  # a row of the file is the way of an axis
    affine[:3, 3] = origin[:3]
    local = fields["ElementDataFile"].upper() == "LOCAL"
    skip = int(fields.get("HeaderSize", "0"))
    zipped = _true(fields.get("CompressedData", "False"))
    if skip < -1 or (skip == -1 and zipped):
        raise InputError(f"{path}: HeaderSize must be 0 or more, or -1 if nothing is compressed; it is {skip}")
    return _Header(
        sizes=(channels, *sizes) if channels > 1 else sizes,
        channel_axis=0 if channels > 1 else 3 if dims == 4 else None,
        dtype=np.dtype(META_TYPES[kind]).newbyteorder(">" if big else "<"),
        affine=check_affine(LPS_TO_RAS @ affine, path),
        data=path if local else _beside(path, fields["ElementDataFile"]),
        offset=place if local else None if skip == -1 else skip,
        zipped=zipped,
    )


def _nrrd(content: bytes, path: Path) -> _Header:
    if not re.match(rb"NRRD000\d\r?\n", content):
        raise InputError(f"{path}: not a NRRD file (it does not start with NRRD000)")
    end = re.search(rb"\r?\n\r?\n", content)
    text = content[: end.start() if end else len(content)].decode("latin-1")
    # key:=value pairs and comments are for people.
    lines = (re.match(r"([^:#]+):(?!=)(.*)", line) for line in text.splitlines()[1:])
    fields = {line[1].strip().lower(): line[2].strip() for line in lines if line}
    sizes = tuple(int(n) for n in fields.get("sizes", "").split())
    dims = int(fields.get("dimension", "0"))
    if not 3 <= dims <= 4 or len(sizes) != dims or min(sizes) < 1:
        raise InputError(
            f"{path}: a volume has 3 or 4 axes of at least 1 voxel, this one is {fields.get('sizes')} (sizes)"
        )
    code = NRRD_TYPES.get(" ".join(fields.get("type", "").lower().split()))
    if code is None:
        raise InputError(f"{path}: voxels must be whole or real numbers, these are {fields.get('type') or 'none'}")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path}: the encoding must be raw or gzip, it is {encoding or 'none'}")
    if fields.get("endian", "little").lower() not in ("little", "big") or (code[1] != "1" and "endian" not in fields):
        raise InputError(f"{path}: endian must be little or big, it is {fields.get('endian', 'missing')}")
    line_skip, skip = (int(fields.get(f"{what} skip", fields.get(f"{what}skip", "0"))) for what in ("line", "byte"))
    if line_skip or skip < -1 or (skip == -1 and encoding != "raw"):
        raise InputError(f"{path}: line skip {line_skip} and byte skip {skip} are not read; export it with a header")
    listed = fields.get("data file", fields.get("datafile"))
    if listed is None and end is None:
        raise InputError(f"{path}: truncated, its header neither ends nor names a data file")
    channel_axis, affine = _nrrd_grid(fields, dims, path)
    start = end.end() if end and listed is None else 0
    zipped = encoding != "raw"
    return _Header(
        sizes=sizes,
        channel_axis=channel_axis,
        dtype=np.dtype(code).newbyteorder(">" if fields.get("endian", "").lower() == "big" else "<"),
        affine=check_affine(affine, path),
        data=path if listed is None else _beside(path, listed),
        offset=None if skip == -1 else start if zipped else start + skip,
        zipped=zipped,
        skip=skip if zipped else 0,
    )


def _nrrd_grid(fields: dict[str, str], dims: int, path: Path) -> tuple[int | None, np.ndarray]:
    """Return which axis counts channels, if one does, and the RAS+ affine of the others."""
    kinds = fields.get("kinds", " ".join(["domain"] * dims)).lower().split()
    if "space directions" in fields:
        vectors = [_vector(text, path) if text else None for text in VECTOR.findall(fields["space directions"])]
        absent = [vector is None for vector in vectors]
    else:
        spacings_mm = [float(mm) for mm in fields.get("spacings", " ".join(["1"] * dims)).split()]
        absent = [math.isnan(mm) for mm in spacings_mm]
    if len(absent) != dims or len(kinds) != dims:
        raise InputError(f"{path}: kinds, space directions and spacings must have an entry for each of the {dims} axes")
    aside = [axis for axis in range(dims) if absent[axis] or kinds[axis] not in NRRD_DOMAINS]
    if dims == 4 and not aside:
        aside = [3]
    if len(aside) != dims - 3:
        raise InputError(f"{path}: a volume has three axes in space, this one {dims - len(aside)} of {dims}")
    ours = [axis for axis in range(dims) if axis not in aside]
    affine = np.eye(4)
    if "space directions" in fields:
        affine[:3, :3] = np.array([vectors[axis] for axis in ours]).T
    else:
        affine[:3, :3] = np.diag([spacings_mm[axis] for axis in ours])
    origin = VECTOR.fullmatch(fields.get("space origin", "(0,0,0)"))
    affine[:3, 3] = _vector(origin[1] if origin and origin[1] else "", path)
    name = fields.get("space", "lps").lower().removesuffix("-time")
    # As ITK does it, a space that is none of the body's counts as left-posterior-superior.
    signs = NRRD_SIGNS.get(NRRD_SPACES.get(name.removesuffix("t"), name), (-1, -1))
    return (aside[0] if aside else None), np.diag([*signs, 1.0, 1.0]) @ affine


def _vector(text: str, path: Path) -> list[float]:
    numbers = [float(number) for number in text.split(",") if number.strip()]
    if len(numbers) != 3:
        raise InputError(f"{path}: a place in space has 3 coordinates, this one is ({text})")
    return numbers


def _true(value: str) -> bool:
    return value[:1].upper() in ("T", "1", "Y")


def _numbers(fields: dict[str, str], keys: tuple[str, ...], default: np.ndarray, path: Path) -> np.ndarray:
    key = next((key for key in keys if key in fields), None)
    if key is None:
        return default
    numbers = np.array([float(number) for number in fields[key].split()])
    if numbers.size != default.size:
        raise InputError(f"{path}: {key} must hold {default.size} numbers, it holds {fields[key]!r:.80}")
    return numbers


def _beside(path: Path, listed: str) -> Path:
    """Return the data file that a header names; it must lie in the header's folder, or below it."""
    name = listed.removeprefix("./")
    if not name or name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path}: its voxels must lie in one file, it names {listed!r:.80}; export it as one")
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    if outside or "\0" in name or ".." in re.split(r"[/\\]", name):
        raise InputError(f"{path}: {listed!r:.80} must be a file inside the header's folder")
    return path.parent / name


def _meta_text(shape: tuple[int, ...], kind: str, affine: np.ndarray, data: str) -> str:
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    channels = f"ElementNumberOfChannels = {shape[0]}\n" if len(shape) == 4 else ""
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = {_text((affine[:3, :3] / spacing_mm).T.ravel())}\nOffset = {_text(affine[:3, 3])}\n"
        f"ElementSpacing = {_text(spacing_mm)}\nDimSize = {' '.join(str(n) for n in shape[-3:])}\n{channels}"
        f"ElementType = {kind}\nElementDataFile = {data}\n"
    )


def _nrrd_text(shape: tuple[int, ...], kind: str, affine: np.ndarray) -> str:
    vectors = " ".join(f"({_text(column, ',')})" for column in affine[:3, :3].T)
    several = len(shape) == 4
    return (
        f"NRRD0004\ntype: {kind}\ndimension: {len(shape)}\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(str(n) for n in shape)}\nspace directions: {'none ' if several else ''}{vectors}\n"
        f"kinds: {'vector ' if several else ''}domain domain domain\nendian: little\nencoding: gzip\n"
        f"space origin: ({_text(affine[:3, 3], ',')})\n\n"
    )


def _text(numbers: np.ndarray, between: str = " ") -> str:
    return between.join(repr(float(number)) for number in numbers)  # repr is exact
