"""Real folders are messy: every kind of disorder is named, all of it at once, or left out when that is asked for."""

import os
import shutil
import sys

import numpy as np
import pytest
from datasets import folder, png_of
from PIL import Image

from thaw.cli import check_data, terminal
from thaw.data import checks, fingerprints
from thaw.data.dataset import load_dataset
from thaw.errors import ThawError
from thaw.modalities.images import decode


@pytest.fixture
def root(pictures):
    """Two classes, each in three splits."""
    return pictures({f"{part}/{name}": 6 for part in ("train", "val", "test") for name in ("cat", "dog")})


@pytest.fixture
def load(tmp_path):
    return lambda root, **changes: load_dataset(folder(root, **changes), 0, tmp_path / "store")


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def copy(root, source, target):
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / source, root / target)


def empty_file(root):
    write(root / "train/cat/a.jpg", b"")


def text_named_jpg(root):
    write(root / "train/cat/a.jpg", b"hello")


def page_named_png(root):
    write(root / "train/cat/a.png", b"<html>404</html>")


def truncated(root):
    write(root / "train/cat/a.png", (root / "train/cat/000.png").read_bytes()[:900])


def bomb(root):
    write(root / "train/cat/a.png", png_of(50_000))


def too_many_pixels(root):
    Image.new("L", (20_000, 6_000)).save(root / "train/cat/a.png")


def other_ending(root):
    write(root / "train/cat/a.tiff")


def raw_photograph(root):
    write(root / "train/cat/a.CR2")


def no_ending(root):
    write(root / "train/cat/readme")


def link_to_nothing(root):
    (root / "train/cat/a.png").symlink_to(root / "gone.png")


def pipe(root):
    os.mkfifo(root / "train/cat/a.png")


def name_that_is_not_utf8(root):
    shutil.copy(root / "train/cat/000.png", os.fsencode(root / "train/cat") + b"/\xff.png")


def in_training_and_test(root):
    copy(root, "test/cat/000.png", "train/cat/a.png")


def in_training_and_validation(root):
    copy(root, "val/cat/000.png", "train/cat/a.png")


def in_validation_and_test(root):
    copy(root, "test/cat/000.png", "val/cat/a.png")


def under_two_labels(root):
    copy(root, "train/dog/000.png", "train/cat/a.png")


def under_two_labels_in_two_splits(root):
    copy(root, "test/dog/000.png", "train/cat/a.png")


LEFT_OUT = [
    (empty_file, "train/cat/a.jpg: is empty"),
    (text_named_jpg, "train/cat/a.jpg: is not an image of a known format"),
    (page_named_png, "train/cat/a.png: is not an image of a known format"),
    (truncated, "train/cat/a.png: "),
    (bomb, "train/cat/a.png: has 2500 megapixels, and dataset.max_megapixels=100"),
    (too_many_pixels, "train/cat/a.png: has 120 megapixels"),
    (other_ending, "train/cat/a.tiff: does not end in ."),
    (raw_photograph, "train/cat/a.CR2: does not end in"),
    (no_ending, "train/cat/readme: does not end in"),
    (link_to_nothing, "train/cat/a.png: is a broken link"),
    (pipe, "train/cat/a.png: is not a regular file"),
    (name_that_is_not_utf8, r"train/cat/\udcff.png: has a name that is not UTF-8"),
    (in_training_and_test, "train/cat/a.png: is the same image as test/cat/000.png, which is in another split"),
    (in_training_and_validation, "train/cat/a.png: is the same image as val/cat/000.png"),
    (in_validation_and_test, "val/cat/a.png: is the same image as test/cat/000.png"),
    (under_two_labels, "train/cat/a.png: is the same image as train/dog/000.png, which has another label"),
    (under_two_labels_in_two_splits, "is the same image as test/dog/000.png, which has another label"),
]


@pytest.mark.parametrize(("disorder", "words"), LEFT_OUT, ids=lambda each: getattr(each, "__name__", ""))
def test_what_cannot_be_used_is_named_or_left_out(root, load, disorder, words):
    disorder(root)
    with pytest.raises(ThawError) as refusal:
        load(root)
    assert words in str(refusal.value)
    assert "dataset.on_bad=skip" in str(refusal.value)
    found = load(root, on_bad="skip")
    name = words.split(": ")[0] if words.startswith(("train", "val")) else "train/cat/a.png"
    assert name in found.excluded
    assert not {name} & {each for split in found.splits().values() for each in split.names}
    assert sum(map(len, found.splits().values())) in (35, 36)


def absent(root):
    shutil.rmtree(root)


def a_file(root):
    shutil.rmtree(root)
    root.touch()


def nothing_in_it(root):
    shutil.rmtree(root)
    root.mkdir()


def one_class(root):
    for part in ("train", "val", "test"):
        shutil.rmtree(root / part / "dog")


def no_train(root):
    shutil.rmtree(root / "train")


def two_validations(root):
    shutil.copytree(root / "val", root / "valid")


def all_broken(root):
    for path in root.rglob("*/cat/*.png"):
        path.write_bytes(b"x")


REFUSED = [
    (absent, "is not a folder"),
    (a_file, "is not a folder"),
    (nothing_in_it, "needs at least two classes of images; it has none"),
    (one_class, "needs at least two classes of images; it has cat"),
    (no_train, "has test, val but no train"),
    (two_validations, "has several folders for one split (val, valid); leave one of them"),
    (all_broken, "train/cat/000.png: is not an image of a known format"),
]


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize(("disorder", "words"), REFUSED, ids=lambda each: getattr(each, "__name__", ""))
def test_what_is_no_dataset_is_refused_in_any_case(root, load, disorder, words, on_bad):
    disorder(root)
    with pytest.raises(ThawError) as refusal:
        load(root, on_bad=on_bad)
    assert words in str(refusal.value)


def class_without_images(root):
    (root / "train/emu").mkdir()


def class_in_training_only(root):
    for number in range(4):
        path = root / f"train/emu/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), number * 40, np.uint8)).save(path)


def class_in_test_only(root):
    class_in_training_only(root)
    shutil.move(root / "train/emu", root / "test/emu")


def class_of_broken_files(root):
    for part in ("train", "val", "test"):
        write(root / part / "emu/a.png")


@pytest.mark.parametrize(
    ("disorder", "words"),
    [
        (class_without_images, "class emu: has 0 different images in train, and needs 1 or more"),
        (class_in_training_only, "class emu: has 0 different images in "),
        (class_in_test_only, "class emu: has 0 different images in train, and needs 1 or more"),
        (class_of_broken_files, "class emu: has 0 different images in train, and needs 1 or more"),
    ],
)
def test_a_class_that_not_every_split_has_is_named_or_left_out(root, load, disorder, words):
    disorder(root)
    with pytest.raises(ThawError) as refusal:
        load(root)
    assert words in str(refusal.value)
    assert load(root, on_bad="skip").class_names == ("cat", "dog")


def test_a_class_too_small_to_be_divided_is_named_or_left_out(pictures, load):
    root = pictures({"cat": 4, "dog": 4, "emu": 2})
    with pytest.raises(ThawError, match="class emu: has 2 different images, and needs 3 or more"):
        load(root)
    assert load(root, on_bad="skip").class_names == ("cat", "dog")
    with pytest.raises(ThawError, match="class cat: has 4 different images, and needs 5 or more"):
        load(root, fold=0)


def test_copies_count_once_where_a_class_is_divided(pictures, load):
    root = pictures({"cat": 10, "dog": 1, "emu": 6})
    for number in range(3):
        copy(root, "dog/000.png", f"dog/copy{number}.png")
    with pytest.raises(ThawError, match="class dog: has 1 different images, and needs 3 or more"):
        load(root)
    for folds in (2, 5):
        for fold in range(folds):
            found = load(root, on_bad="skip", fold=fold, folds=folds)
            assert all(set(split.labels) == {0, 1} for split in found.splits().values())


def test_two_folds_need_four_images_of_a_class(pictures, load):
    root = pictures({"cat": 4, "dog": 4, "emu": 3})
    for fold in range(2):
        assert load(root, on_bad="skip", fold=fold, folds=2).class_names == ("cat", "dog")


def line_break_in_a_class(root):
    (root / "train/do\ng").mkdir()


def image_beside_the_splits(root):
    copy(root, "train/cat/000.png", "a.png")


def image_beside_the_classes(root):
    copy(root, "train/cat/000.png", "train/a.png")


def folder_beside_the_splits(root):
    copy(root, "train/cat/000.png", "extra/cat/a.png")


def class_that_is_a_link_to_nothing(root):
    (root / "train/emu").symlink_to(root / "gone")


@pytest.mark.parametrize(
    ("disorder", "words"),
    [
        (line_break_in_a_class, r"train/do\ng: has a class name with unprintable characters"),
        (image_beside_the_splits, "a.png: belongs to no class"),
        (image_beside_the_classes, "train/a.png: belongs to no class"),
        (folder_beside_the_splits, "extra: is none of test, train, val"),
        (class_that_is_a_link_to_nothing, "train/emu: is a broken link"),
    ],
)
def test_nothing_that_looks_like_a_part_of_it_vanishes_in_silence(root, load, disorder, words):
    disorder(root)
    with pytest.raises(ThawError) as refusal:
        load(root)
    assert words in str(refusal.value)
    assert sum(map(len, load(root, on_bad="skip").splits().values())) == 36


def test_a_split_whose_images_are_all_broken_is_not_made_up_from_others(root, load):
    for path in root.rglob("val/*/*.png"):
        path.write_bytes(b"x")
    with pytest.raises(ThawError, match="class cat: has 0 different images in validation"):
        load(root, on_bad="skip")


def test_a_note_of_the_camera_that_cannot_be_read_does_no_harm(root, load):
    Image.new("RGB", (9, 9)).save(root / "test/cat/a.png", exif=b"garbagegarbage")
    found = load(root)
    assert decode.read(found.test.images[found.test.names.index("test/cat/a.png")], 8).shape == (8, 8, 3)


def test_all_of_it_is_told_at_once_and_much_of_it_is_counted(root, load):
    for number in range(60):
        write(root / f"train/cat/bad{number}.jpg")
    with pytest.raises(ThawError) as refusal:
        load(root)
    assert "has 60 entries that cannot be used" in str(refusal.value)
    assert str(refusal.value).count("is not an image of a known format") == checks.LISTED
    assert "and 10 more" in str(refusal.value)


def test_unreadable_files_and_folders_are_named(root, load, monkeypatch):
    read, scan = fingerprints.Path.read_bytes, os.scandir

    def refuse_file(path):
        if path.name == "000.png" and path.parent.name == "cat":
            raise PermissionError(13, "Permission denied")
        return read(path)

    def refuse_folder(path):
        if str(path).endswith("young"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    (root / "train/dog/young").mkdir()
    monkeypatch.setattr(fingerprints.Path, "read_bytes", refuse_file)
    monkeypatch.setattr(os, "scandir", refuse_folder)
    with pytest.raises(ThawError) as refusal:
        load(root)
    assert "train/cat/000.png: cannot be read (Permission denied)" in str(refusal.value)
    assert "young: cannot be read (Permission denied)" in str(refusal.value)


def test_a_dataset_is_decoded_once_for_each_content(root, load, tmp_path, monkeypatch):
    asked = []
    real = fingerprints._examine
    monkeypatch.setattr(
        fingerprints, "_examine", lambda state, validator: asked.append(state) or real(state, validator)
    )
    load(root)
    assert len(asked) == 36
    load(root)
    assert len(asked) == 36
    load(root, max_megapixels=5.0)
    assert len(asked) == 72


def test_the_command_tells_balance_and_trouble(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "LONG", 0.0)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["check", f"dataset.path={root}", f"store={tmp_path / 'mlruns'}", *arguments])
        status = check_data.main()
        return status, "".join(capsys.readouterr())

    status, out = run("dataset=folder")
    assert status == 0
    assert out.startswith("checking · 36 files · ")
    assert "12 training, 12 validation and 12 test images; 6 training images a class" in out
    assert "cat" in out
    empty_file(root)
    status, out = run("dataset=folder")
    assert status == 1
    assert "train/cat/a.jpg: is empty" in out
    status, out = run("dataset=foldr")
    assert status == 1
    assert "did you mean folder?" in out


def test_a_file_too_large_for_an_image_is_not_read(root, load):
    with (root / "train/cat/large.jpg").open("wb") as file:
        file.truncate(2**31)
    assert load(root, on_bad="skip").excluded == {"train/cat/large.jpg": "is 2147 MB, too large for an image"}
