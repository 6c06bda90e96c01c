"""Small DICOM series, RTSTRUCT and SEG files of known content."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STUDY, FRAME = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame"])
# An orthonormal triple of short decimals, so that DICOM's decimal strings hold it exactly.
OBLIQUE = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]])
SPACING_MM = (3.0, 2.0, 1.5)


def oblique_affine():
    """RAS+: columns of a slice 3 mm apart, rows 2 mm, slices 1.5 mm, turned about the second axis."""
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE * SPACING_MM
    affine[:3, 3] = (-20.5, 31.25, 7.0)
    return LPS @ affine


def write_series(folder, stored, affine, order=None, name="slice{:02d}.dcm", series="series", **tags):
    """Write (X, Y, Z) stored values a slice a file; `order` says in which order the files are named."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0).round(6)
    unit = lps[:3, :3] / spacing
    paths = []
    for number, z in enumerate(order or range(stored.shape[2])):
        header = pydicom.Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = CTImageStorage
        header.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(z)])
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.PatientID, header.PatientName, header.PatientSex, header.PatientBirthDate = "", "One^Patient", "O", ""
        header.StudyInstanceUID, header.FrameOfReferenceUID = STUDY, FRAME
        header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20260101", "120000", "1", ""
        header.ReferringPhysicianName, header.PositionReferenceIndicator = "", ""
        header.SeriesInstanceUID, header.SeriesDescription = generate_uid(entropy_srcs=[series]), series
        header.Modality, header.SeriesNumber, header.InstanceNumber = "CT", 1, number + 1
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.ImagePositionPatient = [repr(round(float(v), 6)) for v in lps[:3, :3] @ (0, 0, z) + lps[:3, 3]]
        header.ImageOrientationPatient = [repr(round(float(v), 6)) for v in unit[:, :2].T.ravel()]
        header.PixelSpacing = [float(spacing[1]), float(spacing[0])]  # between rows, then between columns
        header.SliceThickness = float(spacing[2])
        header.Columns, header.Rows = stored.shape[:2]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 8 * stored.dtype.itemsize
        header.HighBit = header.BitsAllocated - 1
        header.PixelRepresentation = int(stored.dtype.kind == "i")
        header.RescaleSlope, header.RescaleIntercept = 1, 0
        header.PixelData = np.ascontiguousarray(stored[:, :, z].T).tobytes()
        for tag, value in tags.items():
            setattr(header, tag, value)
        paths.append(folder / name.format(number))
        header.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_contours(path, regions, affine, kind="CLOSED_PLANAR", frame=FRAME, series=None):
    """Write an RTSTRUCT: regions by name, each a list of (N, 3) points in voxels of a grid.

    Args:
        path: The file.
        regions: (name, contours) each.
        affine: The grid's.
        kind: Of all contours, or of each.
        frame: The UID of the frame of reference; None to state none.
        series: The UID of the series that it references, if it states one.
    """
    kinds = iter([kind] * 1000 if isinstance(kind, str) else kind)
    rt = pydicom.Dataset()
    rt.file_meta = FileMetaDataset()
    rt.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rt.file_meta.MediaStorageSOPClassUID = rt.SOPClassUID = RTStructureSetStorage
    rt.file_meta.MediaStorageSOPInstanceUID = rt.SOPInstanceUID = generate_uid(entropy_srcs=["rt"])
    rt.Modality, rt.SeriesInstanceUID = "RTSTRUCT", generate_uid(entropy_srcs=["rtseries"])
    lps = LPS @ affine
    rois, drawn = [], []
    for number, (name, polygons) in enumerate(regions, start=1):
        roi, contours = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName = number, name
        if frame:
            roi.ReferencedFrameOfReferenceUID = frame
        contours.ReferencedROINumber, contours.ContourSequence = number, []
        for polygon in polygons:
            contour = pydicom.Dataset()
            points = np.asarray(polygon, float) @ lps[:3, :3].T + lps[:3, 3]
            contour.ContourGeometricType, contour.NumberOfContourPoints = next(kinds), len(points)
            contour.ContourData = [f"{value:.6f}" for value in points.ravel()]
            contours.ContourSequence.append(contour)
        rois.append(roi)
        drawn.append(contours)
    rt.StructureSetROISequence, rt.ROIContourSequence = rois, drawn
    if series:
        place, study, one = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        one.SeriesInstanceUID, study.RTReferencedSeriesSequence = series, [one]
        place.RTReferencedStudySequence = [study]
        rt.ReferencedFrameOfReferenceSequence = [place]
    rt.save_as(path, enforce_file_format=True)
    return path


def write_segments(path, slices: list[Path], masks, kind="BINARY"):
    """Write a SEG: masks (X, Y, Z) by label on the grid of a series' slices, which are given in their order."""
    sources = [pydicom.dcmread(path) for path in slices]
    stack = np.stack([mask.T for mask in masks.values()], axis=-1)
    code = codes.SCT.Tissue
    described = [
        hd.seg.SegmentDescription(number, label, code, code, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for number, label in enumerate(masks, start=1)
    ]
    hd.seg.Segmentation(
        source_images=sources,
        pixel_array=stack if kind == "FRACTIONAL" else stack.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(entropy_srcs=["segseries"]),
        series_number=2,
        sop_instance_uid=generate_uid(entropy_srcs=["seg"]),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)
    return path
