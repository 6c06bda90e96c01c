"""What is missing of an image's size to a multiple, so that every pooling halves evenly."""

Margins = tuple[tuple[int, int], tuple[int, int]]
"""Rows above and below, columns left and right."""


def margins(image_size: tuple[int, int], multiple: int) -> Margins:
    """The rows and columns that pad an image to the next multiple, as evenly as can be, more below and right."""
    above_below, left_right = ((-size % multiple // 2, (-size % multiple + 1) // 2) for size in image_size)
    return above_below, left_right
