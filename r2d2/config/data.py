"""The sections `data` and `preprocess`: where the scans are, who trains, and how scans become images."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from r2d2.config.folders import Location
from r2d2.config.section import Fraction, Section

Label = Annotated[int, Field(ge=0, le=254)]
PATIENT = r"^(.+?)(?:_z\d{3,})?(?:_augmented_\d+)?$"
"""A case's name without what R2D2 itself puts behind it: slices of `imgmed.convert`, images of `augment_folder`."""


class Split(Section):
    """Which patients train, validate and test; a patient is never in two of them.

    Fractions of the patients, drawn with `seed`; or `folds` parts of which number `fold` (from 0) is the test set and
    the next one the validation set; or the lists of patients `training`, `validation`, `test`, which win.
    """

    fractions: tuple[Fraction, Fraction, Fraction] = (0.70, 0.15, 0.15)
    seed: int = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    training: tuple[str, ...] | None = None
    validation: tuple[str, ...] | None = None
    test: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Split":
        if abs(sum(self.fractions) - 1.0) > 1e-6:
            raise ValueError(f"fractions {list(self.fractions)} must sum to 1")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold ({self.fold}) must be < folds ({self.folds}); folds are counted from 0")
        if self.folds == 2:
            raise ValueError("folds must be 3 or more: one to test, one to validate, the others to train")
        lists = [self.training, self.validation, self.test]
        if any(part is not None for part in lists) and not all(part is not None for part in lists):
            raise ValueError("give all three lists of patients (training, validation, test) or none")
        return self


class Data(Section):
    """Where the scans are.

    `path` is a folder, here or at a URL that fsspec knows (s3://, gs://, https://, sftp://), in the layout of the
    Medical Segmentation Decathlon or of nnU-Net (`dataset.json`, `imagesTr/`, `labelsTr/`), with plain `images/` and
    `labels/`, or with a folder for each patient: a DICOM series and its RTSTRUCT or SEG, or LASC's `image.mhd` and
    `gt_binary.mhd`. `labels` names the classes by their value in the masks, 0 being the background; a `dataset.json`
    says it too. Of an RTSTRUCT or SEG the classes are the regions or segments of these very names, or of those that
    `structures` gives, one for a class or several of which each patient has one: `{1: [GTV-1, gtv]}`. `remap` gives
    values in masks of other formats the classes' numbers: `{255: 1}` for pictures of 0 and 255, `{4: 3}` for BraTS.
    `patient_pattern` is a regular expression whose first group (or whole match) takes the patient from a case's name;
    by default that is the name without the endings `_z012` (a slice) and `_augmented_3` that R2D2's own tools make.
    """

    path: Location
    labels: Annotated[dict[Label, str], Field(min_length=2)] | None = None
    structures: dict[Label, str | Annotated[tuple[str, ...], Field(min_length=1)]] | None = None
    remap: dict[Annotated[int, Field(ge=0, le=65535)], Label] | None = None
    patient_pattern: str = PATIENT
    split: Split = Split()


class Slices(Section):
    """Which slices of a scan are trained on: `count` of them (all if absent), spread as `choice` says.

    `uniform`: evenly over the scan. `central`: the middle ones. `foreground`: evenly over those with a label.
    Validation and test always take every slice of a scan.
    """

    count: Annotated[int, Field(ge=1)] | None = None
    choice: Literal["uniform", "central", "foreground"] = "uniform"


class Preprocess(Section):
    """From a scan to images: orientation is always made canonical (RAS) first.

    `channels`: indices along the scan's fourth axis (all if absent). `plane`: the plane of the slices.
    `bias_correction`: `n4` takes the slow changes of brightness out of magnetic resonance scans. `normalization`:
    `zscore` (mean 0, deviation 1), `percentile` (0.5 to 99.5 to [0, 1]), both over the foreground; `window`
    (`window: [low, high]` to [0, 1], e.g. [-1000, 400] HU for a CT of the lungs) or `none`. `crop`: `foreground` cuts
    the slices to its box. The foreground is what is not exactly 0; all of a scan that has negative intensities, unless
    more than a tenth of it is 0: in a CT that was not masked, 0 is water. `image_size`: pixels
    of the images along the two axes of the slices, in the order left-right, front-back, bottom-top: of axial slices
    first left-right, then front-back; of a picture (.png) first its columns, then its rows. `pixel_mm`: the size of
    their pixels: slices are resized to it, then cropped or padded about their middle; absent, slices are stretched to
    the images whatever their size in mm. Labelled voxels that do not fit in are told.
    """

    channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    plane: Literal["sagittal", "coronal", "axial"] = "axial"
    slices: Slices = Slices()
    bias_correction: Literal["none", "n4"] = "none"
    normalization: Literal["zscore", "percentile", "window", "none"] = "zscore"
    window: tuple[float, float] | None = None
    crop: Literal["none", "foreground"] = "none"
    image_size: tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]] = (240, 240)
    pixel_mm: Annotated[float, Field(gt=0.0)] | None = None

    @model_validator(mode="after")
    def _window_where_it_is_used(self) -> "Preprocess":
        if (self.window is not None) != (self.normalization == "window"):
            raise ValueError("normalization: window and window: [low, high] go together; give both or neither")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window's low ({self.window[0]:g}) must be < its high ({self.window[1]:g})")
        return self

    @field_validator("channels")
    @classmethod
    def _each_once(cls, channels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if channels is not None and len(set(channels)) < len(channels):
            raise ValueError(f"a channel may be named once only (got {list(channels)})")
        return channels
