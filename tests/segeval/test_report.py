import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
from matplotlib.figure import Figure

from r2d2 import segeval
from r2d2.segeval import report
from r2d2.segeval.definitions import EMPTY

LABELS = {0: "background", 1: "edema", 2: "a <b> & c"}


def dataset():
    """Three scans: one well found, one whose class 2 is missed, one without class 2."""
    rng = np.random.default_rng(0)
    tally = segeval.Tally(LABELS)
    for number, (there, found) in enumerate([(True, True), (True, False), (False, False)]):
        reference = np.zeros((8, 9, 7), np.uint8)
        reference[1:5, 2:6, 1:5] = 1
        prediction = np.roll(reference, rng.integers(0, 2), 0)
        if there:
            reference[6, 7, 5:] = 2
        if found:
            prediction[6, 7, 5:] = 2
        tally.add(segeval.score_case(f"case_{number}", f"p{number}", reference, prediction, LABELS, (3, 2, 1)))
    return tally


def picture():
    figure = Figure()
    figure.add_subplot().imshow(np.eye(4))
    return figure


class Checker(HTMLParser):
    """Opens and closes every element in its place; collects what a page loads from elsewhere, and its text."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.text, self.rows = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.rows += tag == "tr"
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def made(pictures=None):
    return report.files(dataset(), "3 scans <of> a test", pictures or {}, tolerance_mm=1.5)


def test_the_json_has_all_of_it_and_is_strict():
    told = json.loads(made().texts["scores.json"], parse_constant=lambda name: 1 / 0)
    assert told["about"] == "3 scans <of> a test" and told["definitions"]["empty_masks"] == EMPTY
    assert [row["case"] for row in told["rows"]] == ["case_0", "case_1", "case_2"]
    assert told["rows"][1]["hd95_mm/a <b> & c"] == "inf" and told["rows"][2]["dice/a <b> & c"] is None
    named = told["definitions"].keys() - {"empty_masks", "symbols"}
    assert named == told["means"].keys() | told["estimates"].keys() > {"dice_pooled", "dice_slice/edema", "hd95_mm"}
    assert "within 1.5 mm" in told["definitions"]["surface_dice/edema"]
    estimate = told["estimates"]["hd95_mm/a <b> & c"]
    assert (estimate["n"], estimate["missed"], estimate["statistic"], estimate["value"]) == (2, 1, "median", "inf")
    assert np.sum(told["confusion_matrix"]) == 3 * 8 * 9 * 7
    assert told["lesions"]["a <b> & c"][0]["detected"] == 1 and told["lesions"]["a <b> & c"][0]["lesions"] == 2
    assert made().document == told


def test_the_csv_has_a_line_for_each_scan_and_class():
    lines = list(csv.DictReader(io.StringIO(made().texts["scores.csv"])))
    assert [(line["case"], line["class"]) for line in lines[:3]] == [
        (f"case_{0}", c) for c in ("all", "edema", LABELS[2])
    ]
    assert len(lines) == 9
    missed, absent = lines[5], lines[8]
    assert missed["class"] == absent["class"] == LABELS[2]
    assert (float(missed["dice"]), float(missed["hd95_mm"])) == (0.0, float("inf"))
    assert absent["dice"] == "" and float(absent["volume_ml"]) == 0 and lines[0]["mean_iou"] != ""


def test_the_page_is_whole_and_needs_nothing_from_elsewhere():
    page = made({"case_1": picture()}).texts["report.html"]
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in checker.loaded)
    assert not re.search(r"url\((?!#)|@import|<script", page)
    text = " ".join("".join(checker.text).split())
    for word in ("3 scans <of> a test", "a <b> & c", EMPTY, "1 missed", "case_1: Dice edema", "Definitions"):
        assert word in text
    assert "1 has a <b> & c in neither mask" in text
    assert "nan" not in text.lower().replace("dominant", "") and "Infinity" not in page


def test_one_scan_without_anything_makes_a_report():
    tally = segeval.Tally(LABELS)
    tally.add(segeval.score_case("a", "a", *np.zeros((2, 3, 3, 3), np.uint8), LABELS, (1, 1, 1)))
    files = report.files(tally, "nothing", {})
    assert json.loads(files.texts["scores.json"])["means"]["pixel_accuracy"] == 1
    assert "dice" not in files.estimates and "1 has edema in neither mask" in files.texts["report.html"]


def test_an_estimate_as_people_read_it():
    values = np.array([0.5, 0.6, 0.7])
    assert re.fullmatch(r"0\.600 \(0\.5\d\d to 0\.\d\d\d\)", report.cell(segeval.estimate(values)))
    assert report.cell(segeval.estimate(np.array([0.5]))) == "0.500"
    assert report.cell(segeval.estimate(np.array([0.5, np.nan])), patients=2) == "0.500, n 1"
    assert report.cell(segeval.estimate(np.array([0.0271])), ".3g") == "0.0271"
    assert report.cell(segeval.estimate(np.array([2.0, 3.0, np.inf]), "median"), ".1f").endswith("to inf), 1 missed")
    assert report.cell(segeval.estimate(np.array([np.nan]))) == "-"
