import importlib.util

import numpy as np
import pytest

from r2d2.data import sources
from r2d2.data.sources import icbm152
from r2d2.errors import InputError


def test_the_template_is_the_icbm_brain_in_natural_units():
    template = icbm152()
    assert template.t1.shape == template.grey.shape == template.white.shape == template.brain.shape == (197, 233, 189)
    assert template.t1.dtype == template.grey.dtype == template.white.dtype == np.float32
    assert (template.t1.max(), template.grey.max(), template.white.max()) == (255, 1, 1)
    assert template.affine[:3, 3].tolist() == [-98, -134, -72]
    assert 1800 < template.brain.sum() / 1000 < 2000  # millilitres
    assert (template.t1[~template.brain] == 0).all()
    assert "McConnell" in template.licence


def test_the_template_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        icbm152().t1[0, 0, 0] = 1


def test_without_nilearn_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install 'nilearn"):
        sources.icbm152.__wrapped__()


def test_a_nilearn_without_the_image_is_an_input_error(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("nilearn", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match=r"mni_icbm152_t1.*pip install 'nilearn"):
        sources.icbm152.__wrapped__()
