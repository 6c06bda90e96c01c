import hashlib
import subprocess
import zipfile

import pytest
from helpers.packages import write_package

from r2d2.errors import InputError
from r2d2.tracking import package

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "model"
    return folder, write_package(folder, training=["a"])


@pytest.fixture
def copied(made, tmp_path):
    package.save(made[0], tmp_path / "copy")
    return tmp_path / "copy"


def refused(path, rule):
    with pytest.raises(InputError, match=rule) as caught, package.opened(path):
        pass
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_package_travels_as_a_folder_and_as_a_zip_with_every_byte(made, tmp_path):
    folder, card = made
    for output in (tmp_path / "far" / "folder", tmp_path / "far" / "model.zip"):
        package.save(folder, output)
        with package.opened(output) as (place, found):
            assert found == card
            for path in folder.rglob("*"):
                if path.is_file():
                    assert (place / path.relative_to(folder)).read_bytes() == path.read_bytes()
        with pytest.raises(InputError, match="it is there already"):
            package.save(folder, output)
    assert not place.exists()  # what was unpacked is gone


def test_its_checksums_are_those_that_sha256sum_reads(copied):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=copied, check=True)


@pytest.mark.parametrize("name", ["data/model.keras", "card.json", "experiment.yaml", "MLmodel", "SHA256SUMS"])
def test_a_changed_byte_is_refused(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    refused(copied, "SHA256SUMS|is missing")


def test_a_file_that_is_missing_or_added_or_a_link_is_refused(copied, tmp_path):
    (copied / "more.txt").write_text("more")
    refused(copied, "more.txt has no place")
    (copied / "more.txt").unlink()
    (copied / "card.md").rename(tmp_path / "card.md")
    refused(copied, "card.md is missing")
    (copied / "card.md").symlink_to(tmp_path / "card.md")
    refused(copied, "this is a link")


def test_a_folder_that_is_no_package_or_a_file_that_is_no_zip_is_refused(tmp_path):
    refused(tmp_path, "no model package")
    (tmp_path / "model.zip").write_bytes(b"PK nothing")
    refused(tmp_path / "model.zip", "zip")
    refused(tmp_path / "none.zip", "No such file")


def test_a_package_of_the_right_sums_but_without_what_a_model_needs_is_refused(tmp_path):
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'{}').hexdigest()}  card.json\n")
    refused(tmp_path, "MLmodel is missing")


def resum(folder):
    """Make the checksums right again."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "SHA256SUMS"]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))


@pytest.mark.parametrize("name", ["data/custom_objects.cloudpickle", "data/registered_model_meta", "run.py"])
def test_a_file_that_has_no_place_in_a_package_is_refused_though_its_sum_is_right(copied, name):
    (copied / name).write_bytes(b"evil")
    resum(copied)
    refused(copied, "has no place")


def test_a_package_that_names_another_loader_is_refused(copied):
    text = (copied / "MLmodel").read_text()
    assert "loader_module: mlflow.keras" in text
    (copied / "MLmodel").write_text(text.replace("loader_module: mlflow.keras", "loader_module: mlflow.pyfunc.model"))
    resum(copied)
    refused(copied, "its flavour python_function")


@pytest.mark.parametrize("card", ["{}", "[]", "not JSON", '{"labels": 3}'])
def test_a_card_that_is_none_is_refused_though_its_sum_is_right(copied, card):
    (copied / "card.json").write_text(card)
    resum(copied)
    refused(copied, "no card that R2D2 wrote")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil"])
def test_a_zip_that_leads_out_of_its_folder_is_refused_before_it_is_unpacked(made, tmp_path, name, monkeypatch):
    package.save(made[0], path := tmp_path / "model.zip")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr(name, "evil")
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("it was unpacked"))
    refused(path, "leads out of the folder")


def test_a_bomb_is_refused_by_the_size_that_it_declares_before_it_is_unpacked(tmp_path, monkeypatch):
    path, block = tmp_path / "bomb.zip", bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("data/model.keras", block)
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02") + 24  # where the directory says how large the entry is
    assert content[at : at + 4] == len(block).to_bytes(4, "little")
    path.write_bytes(content[:at] + (2**32 - 2).to_bytes(4, "little") + content[at + 4 :])
    monkeypatch.setattr(package, "LARGEST_BYTES", 2**32 - 3)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("it was unpacked"))
    refused(path, "more than")
