"""The paper's import path: `from r2d2.img import ImgMed`, and its Listing 1 runs as printed."""

from pathlib import Path

from r2d2.console import bars
from r2d2.imgmed import convert


class ImgMed:
    """The steps of the paper's Listing 1, with a progress bar each; `r2d2.imgmed.convert` says what they do to values.

    A folder of 4D NIfTI files to PNG images of 350 x 350 pixels, the slices of channel 0:

        from r2d2.img import ImgMed

        ImgMed.convert_4DNI_to_RGBJPG("scans", "rgb", 0)
        ImgMed.reshape_JPG_to2D("rgb", "grey")
        ImgMed.convert_JPG_to_PNG("grey", "png")
        ImgMed.resize_img("png", "images", "png", 350, 350)
    """

    @staticmethod
    def convert_4DNI_to_RGBJPG(src: str | Path, dest: str | Path, dim: int) -> Path:  # noqa: N802
        """Make a colour JPEG of every slice of every volume; see `convert.convert_4DNI_to_RGBJPG`."""
        with bars() as report:
            return convert.convert_4DNI_to_RGBJPG(
                src, dest, dim, progress=lambda done, total: report("Volumes to JPEG", done, total)
            )

    @staticmethod
    def reshape_JPG_to2D(src: str | Path, dest: str | Path) -> Path:  # noqa: N802
        """Make a grey image of every colour JPEG; see `convert.reshape_JPG_to2D`."""
        with bars() as report:
            return convert.reshape_JPG_to2D(
                src, dest, progress=lambda done, total: report("Colour to grey", done, total)
            )

    @staticmethod
    def convert_JPG_to_PNG(src: str | Path, dest: str | Path) -> Path:  # noqa: N802
        """Make a PNG of every JPEG; see `convert.convert_JPG_to_PNG`."""
        with bars() as report:
            return convert.convert_JPG_to_PNG(
                src, dest, progress=lambda done, total: report("JPEG to PNG", done, total)
            )

    @staticmethod
    def resize_img(
        src: str | Path, dest: str | Path, ext: str, height: int, width: int, labels: bool | None = None
    ) -> Path:
        """Make every image `height` rows by `width` columns; see `convert.resize_img`."""
        with bars() as report:
            return convert.resize_img(
                src, dest, ext, height, width, labels, progress=lambda done, total: report("Resizing", done, total)
            )
