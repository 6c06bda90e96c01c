import cv2
import numpy as np
import pytest

from r2d2.segeval.overlay import COLOURS, Panel, draw, mosaic, upright

LABELS = {0: "background", 1: "edema", 2: "tumour"}


def picture(**masks):
    image = np.linspace(0, 1, 20 * 30).reshape(20, 30)
    return draw(image, masks, LABELS, "patient 1")


def square(value):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:15] = value
    return mask


@pytest.mark.parametrize("names", [(), ("reference",), ("reference", "prediction")])
def test_there_is_a_panel_for_the_scan_and_one_for_each_mask(names):
    figure = picture(**dict.fromkeys(names, square(1)))
    assert [axes.get_title() for axes in figure.axes] == ["scan", *names]
    assert [len(axes.images) for axes in figure.axes] == [1, *[2] * len(names)]
    assert figure.get_suptitle() == "patient 1"


def test_the_legend_names_the_classes_and_not_the_background():
    (legend,) = picture(reference=square(1)).legends
    assert [text.get_text() for text in legend.get_texts()] == ["edema", "tumour"]


def test_background_is_clear_and_a_class_has_its_legends_colour():
    figure = picture(reference=square(2))
    overlay = np.asarray(figure.axes[1].images[1].get_array())
    assert overlay.shape == (20, 30, 4) and overlay[0, 0, 3] == 0 < overlay[10, 10, 3] < 1
    assert COLOURS[1] == "#E69F00"
    np.testing.assert_allclose(overlay[10, 10, :3], [0xE6 / 255, 0x9F / 255, 0])
    assert np.count_nonzero(overlay[..., 3]) == 100


def test_a_class_beyond_the_labels_is_drawn_too():
    overlay = np.asarray(picture(prediction=square(9)).axes[1].images[1].get_array())
    assert overlay[10, 10, 3] > 0


def test_a_constant_image_can_be_drawn():
    figure = draw(np.full((8, 8), 3.0), {"reference": np.zeros((8, 8), np.uint8)}, LABELS, "constant")
    assert figure.axes[0].images[0].get_clim()[0] < figure.axes[0].images[0].get_clim()[1]


def test_it_is_saved_as_a_png_that_another_library_reads(tmp_path):
    file = tmp_path / "patient.png"
    picture(reference=square(1), prediction=square(2)).savefig(file)
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = cv2.imread(str(file))
    assert image.shape[1] == round(3 * 3.2 * 110)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50


def test_a_mosaic_has_its_panels_row_by_row_each_with_its_aspect():
    rows = [[Panel(np.eye(8), f"{row}{column}", square(1)[:8, :8]) for column in range(3)] for row in range(2)]
    figure = mosaic(rows, LABELS, "all", aspects=[1.0, 2.0])
    assert [axes.get_title() for axes in figure.axes] == ["00", "01", "02", "10", "11", "12"]
    assert [axes.get_aspect() for axes in figure.axes] == [1, 1, 1, 2, 2, 2]
    left, below = figure.axes[0].get_subplotspec(), figure.axes[3].get_subplotspec()
    assert (left.rowspan.start, below.rowspan.start, below.colspan.start) == (0, 1, 0)


@pytest.mark.parametrize(
    ("x", "y", "row", "column"),
    [
        (0, 3, 0, 4),  # front and left of the patient: on top, on the right
        (4, 3, 0, 0),  # front and right: on top, on the left
        (0, 0, 3, 4),  # back and left
        (4, 0, 3, 0),  # back and right
        (1, 2, 1, 3),
    ],
)
def test_upright_is_the_radiologists_view(x, y, row, column):
    # RAS: x rises to the patient's right, y to the front; five voxels wide, four deep.
    voxels = np.zeros((5, 4))
    voxels[x, y] = 1
    view = upright(voxels)
    assert view.shape == (4, 5)
    assert np.argwhere(view).tolist() == [[row, column]]


def test_upright_leaves_its_input_untouched():
    voxels = np.arange(20).reshape(5, 4)
    upright(voxels)
    np.testing.assert_array_equal(voxels, np.arange(20).reshape(5, 4))
