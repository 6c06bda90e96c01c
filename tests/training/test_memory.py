import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest

from r2d2 import imgmed
from r2d2.data.prepare import PreparedCase

SLICES, SIZE, CHANNELS = 4700, 240, 4


@pytest.fixture
def prepared_folder(tmp_path):
    """A prepared dataset of 2.4 GB, whose files take no room on the disk: they are holes, and read as zeros."""
    for name, shape, dtype in (
        ("images", (SLICES, SIZE, SIZE, CHANNELS), np.float16),
        ("labels", (SLICES, SIZE, SIZE), np.uint8),
        ("references", (1,), np.uint8),
    ):
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    frame = imgmed.frame((SIZE, SIZE), (SIZE, SIZE))
    case = PreparedCase("p", "p", 0, (SLICES, SIZE, SIZE), (1.0, 1.0, 1.0), 0, frame)
    index = {"key": "x", "labels": {0: "background"}, "channels": ["a", "b", "c", "d"], "licence": ""}
    index["cases"] = [asdict(case)]
    (tmp_path / "index.json").write_text(json.dumps(index))
    return tmp_path


def pss(ranks):
    return sum(psutil.Process(rank.pid).memory_full_info().pss for rank in ranks)


def ask(rank):
    rank.stdin.write("go\n")
    rank.stdin.flush()
    return rank.stdout.readline()


@pytest.mark.long
def test_a_second_rank_adds_less_than_a_tenth_of_the_prepared_data_to_the_memory(prepared_folder):
    size = sum(path.stat().st_size for path in prepared_folder.glob("*.npy"))
    assert size > 2e9
    script = Path(__file__).parents[1] / "helpers" / "feeding.py"
    ranks = [
        subprocess.Popen(
            [sys.executable, script, prepared_folder, str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert [rank.stdout.readline() for rank in ranks] == ["ready\n"] * 2
        started = pss(ranks)
        assert int(ask(ranks[0])) == SLICES // 16 * 16
        one_fed = pss(ranks)
        assert int(ask(ranks[1])) == SLICES // 16 * 16
        both_fed = pss(ranks)
        print(
            f"of {size / 1e9:.2f} GB the first rank takes {(one_fed - started) / size:.1%}, "
            f"the second {(both_fed - one_fed) / size:.1%} more"
        )
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert one_fed - started > 0.9 * size  # all of it is in memory
    assert both_fed - one_fed < 0.1 * size
