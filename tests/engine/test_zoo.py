"""The zoo from the command line: three versions of a network that tells tissues by their brightness alone."""

import json
import shutil
import zipfile

import keras
import pytest
from helpers.processes import run_all
from helpers.tissue import by_brightness, write_experiment


@pytest.fixture
def files(tmp_path, virtual_patients):
    """An experiment with six test patients, its network, and a worse one that finds no white matter."""
    experiment = write_experiment(tmp_path / "tissue.yaml", virtual_patients)
    return experiment, by_brightness(tmp_path / "good.keras"), by_brightness(tmp_path / "bad.keras", white=100.0)


def lines(answer, code):
    assert answer[0] == code, answer
    return (answer[1] if code == 0 else answer[2]).strip()


def test_a_worse_model_is_refused_an_equal_one_promoted_and_every_step_leaves_a_trail(files, tmp_path):
    experiment, good, bad = files
    package, folder = tmp_path / "tissue.zip", tmp_path / "tissue"
    publish = [("zoo", "publish", path, "--experiment", experiment, "--json") for path in (good, bad, good)]
    answers = run_all(
        *publish,
        ("zoo", "promote", "tissue", "1"),
        ("zoo", "promote", "tissue", "2"),
        ("zoo", "promote", "tissue", "3", "--json"),
        ("zoo", "promote", "tissue", "2", "--force"),
        ("zoo", "promote", "tissue", "2", "--force", "--reason", "a deadline"),
        ("zoo", "rollback", "tissue", "--json"),
        ("zoo", "rollback", "tissue", "--reason", "to be sure"),
        ("zoo", "rollback", "tissue"),
        ("zoo", "compare", "tissue/1", "tissue/2", "--json"),
        ("zoo", "show", "tissue@champion", "--json"),
        ("zoo", "show", "tissue/2"),
        ("zoo", "pull", "tissue@champion", "-o", package),
        ("zoo", "pull", "tissue/1", "-o", folder),
        ("zoo", "push", package, "--name", "from-a-friend", "--json"),
        ("zoo", "list", "--json"),
        ("zoo", "list"),
        ("runs", "list", "--json"),
    )
    for number, answer in enumerate(answers[:3], start=1):
        assert json.loads(lines(answer, 0)) == {"model": f"tissue/{number}"}
    first, worse, equal, wordless, forced, back, further, nothing = answers[3:11]
    assert "tissue/1 is @champion now" in lines(first, 0)
    told = lines(worse, 1)
    assert "tissue/2 is not promoted" in told and "white matter is found nowhere in brain_003" in told
    assert "promotion.allowed_loss" in told
    made = json.loads(lines(equal, 0))
    assert (made["model"], made["before"]) == ("tissue/3", "tissue/1")
    assert made["evidence"]["comparison"]["difference"] == 0 and len(made["evidence"]["rows"]) == 6
    assert lines(wordless, 2).splitlines()[-1].startswith("r2d2: --force needs a --reason")
    assert "Forced, against" in lines(forced, 0) and "tissue/2 is @champion now" in lines(forced, 0)
    assert json.loads(lines(back, 0)) == {"model": "tissue/3", "before": "tissue/2", "alias": "champion"}
    assert lines(further, 0) == "tissue/1 is @champion again, tissue/3 no longer"
    assert "no previous holder" in lines(nothing, 2)

    compared, champion, loser, pulled, as_folder, pushed, listed, table, runs = answers[11:]
    found = json.loads(lines(compared, 0))["comparisons"]
    assert found["dice/white matter"]["difference"] > 0.2 and found["dice"]["n"] == 6
    shown = json.loads(lines(champion, 0))
    assert shown["model"] == "tissue/1" and shown["card"]["task"] == "tissue of the brain"
    assert [event["did"] for event in shown["history"]["champion"]] == [
        *("promoted", "promoted", "forced", "rolled back", "rolled back")
    ]
    assert shown["card"]["ranges"]["spacing_mm"] == [[4.0, 4.0]] * 3
    assert "white matter not found at all in 6 test patients" in lines(loser, 0) and "a deadline" in lines(loser, 0)
    lines(pulled, 0)
    lines(as_folder, 0)
    assert (folder / "card.md").read_text().startswith("# tissue\n")
    assert json.loads(lines(pushed, 0)) == {"model": "from-a-friend/1"}
    versions = {f"{one['name']}/{one['version']}": one for one in json.loads(lines(listed, 0))}
    assert [*versions] == ["from-a-friend/1", "tissue/3", "tissue/2", "tissue/1"]
    assert versions["tissue/1"]["aliases"] == ["champion"] and versions["tissue/3"]["aliases"] == ["candidate"]
    assert versions["tissue/1"]["dice"] == versions["from-a-friend/1"]["dice"] > versions["tissue/2"]["dice"]
    assert versions["tissue/1"]["dice_low"] < versions["tissue/1"]["dice"] < versions["tissue/1"]["dice_high"]
    assert "grey matter, white matter" in lines(table, 0)
    assert [run["status"] for run in json.loads(lines(runs, 0))] == ["FINISHED"] * 3

    _packages_that_were_changed_are_refused(package, folder, tmp_path)


def _packages_that_were_changed_are_refused(package, folder, tmp_path):
    """Nothing of them is registered."""
    changed, planted = tmp_path / "changed", tmp_path / "planted.zip"
    shutil.copytree(folder, changed)
    card = json.loads((changed / "card.json").read_text())
    (changed / "card.json").write_text(json.dumps(card | {"task": "another"}, indent=1))
    shutil.copy(package, planted)
    with zipfile.ZipFile(planted, "a") as opened:
        opened.writestr("../../evil", "evil")
    answers = run_all(("zoo", "push", changed), ("zoo", "push", planted), ("zoo", "list", "--json"))
    assert "card.json is not what it was (SHA256SUMS)" in lines(answers[0], 2)
    assert "leads out of the folder" in lines(answers[1], 2)
    assert len(json.loads(lines(answers[2], 0))) == 4


def test_what_cannot_be_published_is_one_line(files, tmp_path, virtual_patients):
    experiment, good, _ = files
    two = tmp_path / "two.keras"
    images = keras.Input((None, None, 2))
    keras.Model(images, keras.layers.Conv2D(3, 1, name="logits")(images)).save(two)
    answers = run_all(
        ("zoo", "publish", good),
        ("zoo", "publish", tmp_path / "none.keras", "--experiment", experiment),
        ("zoo", "publish", two, "--experiment", experiment),
        ("zoo", "publish", good, "--experiment", experiment, "--name", "a/b"),
        ("zoo", "publish", "no-such-run"),
        ("zoo", "promote", "tissue", "1"),
        ("zoo", "push", virtual_patients),
        ("zoo", "list", "--json"),
    )
    rules = ["with its experiment", "no such file", "2 channels in and 3 classes out", "'a/b'", "no-such-run", "tissue"]
    for answer, rule in zip(answers[:7], [*rules, "no model package"], strict=True):
        assert rule in lines(answer, 2).splitlines()[-1]
    assert json.loads(lines(answers[7], 0)) == []
