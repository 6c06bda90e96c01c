"""The demo as a person runs it, to the figures that its README promises."""

import json

import nibabel
import numpy as np
from helpers.processes import run


def test_the_demo_beats_both_baselines_on_held_out_patients(tmp_path):
    code, out, err = run("demo", "--json", timeout=600)
    assert code == 0, err
    found = json.loads(out)
    assert found["dice"].keys() == {"Dist-U-Net", "template, not deformed", "best thresholds"}
    ours = found["dice"].pop("Dist-U-Net")
    assert ours.keys() == {"grey matter", "white matter"}
    for tissue, dice in ours.items():
        assert dice >= 0.90
        for baseline in found["dice"].values():
            assert 0.3 < baseline[tissue] <= dice - 0.10
    mask = nibabel.load(found["mask"])
    scan = nibabel.load(tmp_path / "home/demo/virtual-patients-20/imagesTr/brain_002.nii.gz")
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert mask.shape == scan.shape
    assert found["model"] == "brain-tissue/1"
    assert "clinical accuracy" in found["text"]
