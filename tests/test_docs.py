"""Every command in the pages of docs/ is run: the quick ones always, those marked long with `--long` (make soak)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
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
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_it_says(page, tmp_path, request):
    script = commands(page, request.config.getoption("--long"))
    if not script:
        assert "r2d2 " not in "".join(re.findall(r"^```.*?^```$", page.read_text(), re.M | re.S))
        return
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "R2D2_HOME": str(tmp_path / ".r2d2")}
    command = ["bash", "-euxo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), DOCS.parent / "README.md"]), ids=lambda page: page.stem)
def test_what_a_page_points_to_is_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
