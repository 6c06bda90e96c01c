"""Every command in the pages of docs/ is run: the quick ones always, those marked long with `--long` (make soak)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"(<!-- long -->\n)?^```bash\n(.*?)^```$", re.M | re.S)


def commands(page, long):
    """A page's commands as one script; without `long` as far as the first block that is marked so."""
    found = []
    for mark, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if mark and not long:
            break
        found.append(block)
    return "".join(found)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page, long=True)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_it_says(page, tmp_path, request):
    script = commands(page, request.config.getoption("--long"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "R2D2_HOME": str(tmp_path / ".r2d2")}
    command = ["bash", "-euxo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


ADDED = r"""
import sys
from pathlib import Path
import keras, numpy as np
from r2d2 import config, models, segeval
from r2d2.data.layouts import read_layout
from r2d2.models import losses

settings = "name: a\ndata: {path: /scans}\nmodel: {network: dist-linknet, filters: 2}\ntraining: {loss: jaccard}\n"
experiment = config.parse(settings)
network = models.build(experiment.model, 2, 3, (50, 41))
assert network.output_shape == (None, 50, 41, 3)
loss, labels = losses.build(experiment.training), np.arange(2 * 50 * 41).reshape(2, 50, 41) % 3
np.testing.assert_allclose(loss(labels, 100.0 * keras.ops.one_hot(labels, 3)), [0.0, 0.0])
assert 0.7 < float(loss(labels, models.logits(network)(np.zeros((2, 50, 41, 2), "float32")))[0]) < 0.9

tally, reference = segeval.Tally({0: "background", 1: "tumour"}), np.zeros((4, 5, 6), np.uint8)
reference[0, :3] = 1
prediction = np.roll(reference, 1, axis=0)
prediction[1, 2:] = 0
tally.add(segeval.score_case("a", "a", reference, prediction, tally.labels, (1.0, 1.0, 2.0)))
assert abs(tally.means()["volume_similarity/tumour"] - (1 - 6 / 30)) < 1e-12
assert segeval.definitions(["volume_similarity/tumour"])

folder = Path(sys.argv[1]) / "sub-01" / "anat"
folder.mkdir(parents=True)
for name in ("sub-01_T1w.nii.gz", "sub-01_dseg.nii.gz"):
    (folder / name).touch()
assert [scan.name for scan in read_layout(Path(sys.argv[1]), {0: "background", 1: "tumour"}).scans] == ["sub-01"]
"""


def test_what_the_page_on_extending_adds_is_there_and_works(tmp_path):
    package = tmp_path / "copy" / "r2d2"
    shutil.copytree(DOCS.parent / "r2d2", package, ignore=shutil.ignore_patterns("__pycache__"))
    changes = re.findall(r"^```diff\n(.*?)^```$", (DOCS / "extending.md").read_text(), re.M | re.S)
    assert len(changes) == 4
    for change in changes:
        command = ["git", "apply", "-p0", "-"]
        done = subprocess.run(command, cwd=package.parent, input=change, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    command = [sys.executable, "-c", ADDED, tmp_path / "bids"]
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.stem)
def test_what_a_page_points_to_is_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
