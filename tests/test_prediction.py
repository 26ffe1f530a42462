"""predict.py from end to end, on a tiny recorded model."""

import csv
import io
import json
import os
import shutil
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import commands
import keras
import numpy as np
import pytest
import yaml
from conftest import TINY
from matplotlib.axes import Axes
from matplotlib.text import Text
from mlflow.entities import LoggedModelOutput
from networks import build
from PIL import Image

from thaw.data.dataset import load_dataset
from thaw.data.sources.folder import list_folder
from thaw.errors import ThawError
from thaw.modalities.images.explain import grad_cam
from thaw.models.graph import at_pooling
from thaw.plots import predictions
from thaw.serving import classifier, selection
from thaw.tracking import reader
from thaw.tracking.store import connect
from thaw.workspace import Workspace


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one finished run and its model."""

    folder = tmp_path_factory.mktemp("prediction") / "mlruns"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        overrides = [each for each in TINY if each != "tracking.model=false"]
        patch.setattr(sys, "argv", ["train.py", *overrides, "unfreeze=3", f"store={folder}"])
        assert commands.train() == 0
    return connect(None, str(folder))


def folder(store):
    return store.uri.removeprefix("sqlite:///").removesuffix("/mlflow.db")


@pytest.fixture
def predict(store, monkeypatch, capsys, tmp_path):
    """Run predict.py in this process: status, lines of output, standard error."""
    import predict

    def run(*arguments, place=None):
        place = place or folder(store)
        given = ["predict.py", *map(str, arguments), "--store", str(place)]
        monkeypatch.setattr(sys, "argv", given)
        monkeypatch.chdir(tmp_path)
        try:
            status = predict.main()
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("3", "4"):
        (root / name).mkdir(parents=True)
        pixels = np.random.default_rng(int(name)).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(root / name / "a b.png")
    return root


def test_pictures_of_a_folder_are_classified_and_drawn(predict, photos, tmp_path):
    status, lines, err = predict(photos, "--top", 2)
    assert status == 0, err
    assert len(lines) == 2
    assert lines[0].startswith(f"{photos / '3' / 'a b.png'}: ")
    assert lines[0].endswith(("(right)", "(wrong, it is 3)"))
    assert lines[0].count(" %") == 2
    assert Image.open(tmp_path / "prediction.png").size[0] > 300


def test_a_pattern_and_a_place_to_draw(predict, photos, tmp_path):
    status, lines, _ = predict(photos / "*" / "*.png", "--out", tmp_path / "grid.png", "--explain")
    assert (status, len(lines)) == (0, 2)
    assert (tmp_path / "grid.png").exists()


def test_what_cannot_be_read_is_named_and_the_rest_is_done(predict, photos):
    (photos / "3" / "text.jpg").write_text("no picture")
    (photos / "3" / "empty.png").touch()
    status, lines, err = predict(photos)
    assert status == 1
    assert len(lines) == 2
    assert "text.jpg does not decode as an image" in err
    assert "empty.png does not decode as an image" in err


def test_what_is_not_there_or_no_file_is_named_and_the_rest_is_done(predict, photos):
    os.mkfifo(photos / "3" / "pipe.png")
    (photos / "3" / "self.png").symlink_to("self.png")
    status, lines, err = predict(photos, photos / "3" / "a b.png", photos / "gone.png")
    assert status == 1
    assert len(lines) == 3
    assert "pipe.png does not decode as an image (is not a regular file)" in err
    assert "self.png" in err
    assert "gone.png does not exist" in err


def test_a_folder_of_pictures_may_be_a_link(predict, photos):
    (photos / "3").rename(photos.parent / "elsewhere")
    (photos / "3").symlink_to(photos.parent / "elsewhere")
    status, lines, err = predict(photos, "--json")
    assert status == 0, err
    assert [json.loads(line)["true"] for line in lines] == ["3", "4"]


def test_as_large_pictures_are_read_as_the_run_read(predict, photos, store, monkeypatch):
    monkeypatch.setattr(
        classifier, "recorded_config", lambda *_: SimpleNamespace(dataset=SimpleNamespace(max_megapixels=1e-3))
    )
    status, lines, err = predict(photos)
    assert (status, lines) == (1, [])
    assert "has 0 megapixels, and dataset.max_megapixels=0.001" in err


@pytest.mark.parametrize("asked", [["--worst", 3], ["--split", "test"]])
@pytest.mark.parametrize("change", ["fewer", "content"])
def test_a_dataset_that_has_changed_is_not_asked_about_as_the_runs_own(predict, monkeypatch, asked, change):
    load = load_dataset

    def changed(*arguments):
        found = load(*arguments)
        if change == "fewer":
            return replace(found, test=found.test.take(np.arange(1, len(found.test))))
        return replace(found, contents="other")

    monkeypatch.setattr(selection, "load_dataset", changed)
    status, _, err = predict(*asked)
    assert status == 1
    assert "has changed since the run; give image files instead" in err


def test_pictures_of_every_ending_are_asked_about_and_what_nothing_reads_is_named(predict, photos):
    (photos / "3" / "a b.png").rename(photos / "3" / "a.jfif")
    for name in ("scan.tiff", "notes.txt"):
        (photos / "4" / name).write_text("x")
    status, lines, err = predict(photos)
    assert (status, len(lines)) == (1, 2)
    assert lines[0].startswith(f"{photos / '3' / 'a.jfif'}: ")
    assert "scan.tiff does not decode as an image" in err
    assert "notes.txt" not in err


@pytest.mark.parametrize("spelled", ["..", ".", "../../photos", "../3/.."])
def test_the_pictures_of_a_folder_are_found_however_it_is_spelled(photos, monkeypatch, spelled):
    monkeypatch.chdir(photos / "3")
    found = selection.files([spelled])
    assert len(found) == (1 if spelled == "." else 2)
    assert found[0].truths[0] == "3"


def test_the_class_of_a_nested_picture_is_the_folder_that_training_takes(photos):
    nested = photos / "3" / "4" / "2024"
    nested.mkdir(parents=True)
    (photos / "3" / "a b.png").rename(nested / "a.png")
    (found,) = [each for each in selection.files([str(photos)]) if each.source == nested / "a.png"]
    assert found.truths == ("3", "4", "2024", "photos")


def test_a_pattern_may_match_folders_and_what_is_not_there_keeps_nothing_else_back(photos):
    found = selection.files([str(photos / "*"), str(photos / "missing[1].png")])
    assert [each.source.name for each in found] == ["a b.png", "a b.png", "missing[1].png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--split", "test", "--seed", "-1"], "--seed takes"), (["a.png", "--class", "3"], "--class belongs")],
)
def test_options_that_mean_nothing_are_refused(predict, arguments, words):
    status, _, err = predict(*arguments)
    assert status == 2
    assert words in err


def test_a_class_is_known_however_its_name_is_composed(photos):
    (photos / "3").rename(photos / " e\N{COMBINING ACUTE ACCENT}t\N{COMBINING ACUTE ACCENT} ")
    assert (
        selection.files([str(photos)])[0].truths[0] == "\N{LATIN SMALL LETTER E WITH ACUTE}t\N{COMBINING ACUTE ACCENT}"
    )


def test_nobodys_picture_is_drawn_over(predict, photos, tmp_path):
    (photos / "3" / "a b.png").rename(tmp_path / "prediction.png")
    before = (tmp_path / "prediction.png").read_bytes()
    status, _, err = predict(tmp_path / "prediction.png")
    assert status == 1
    assert err.endswith("prediction.png exists, and Thaw did not draw it; move it, or work in another folder\n")
    status, _, err = predict("prediction.png", "--out", "prediction.png")
    assert status == 1
    assert "--out prediction.png is one of the pictures; give another file" in err
    assert (tmp_path / "prediction.png").read_bytes() == before


def test_drawings_are_replaced_and_are_neither_asked_about_nor_data(predict, photos, tmp_path):
    for _ in range(2):
        status, lines, err = predict(".")
        assert (status, len(lines)) == (0, 2), err
    assert (tmp_path / "prediction.png").exists()
    (tmp_path / "prediction.png").rename(photos / "prediction.png")
    assert not list_folder(photos, "photos").rejected


@pytest.mark.parametrize(
    ("out", "words"), [("a.txt", "is not an image file"), ("nowhere/a.png", "does not exist; create it first")]
)
def test_a_place_where_nothing_can_be_drawn_is_refused_at_once(predict, photos, out, words):
    status, lines, err = predict(photos, "--out", out)
    assert (status, lines) == (2, [])
    assert words in err


def test_json_is_one_line_a_picture(predict, photos, tmp_path):
    status, lines, _ = predict(photos, "--json")
    assert status == 0
    found = [json.loads(line) for line in lines]
    assert [each["true"] for each in found] == ["3", "4"]
    assert found[0]["class"] == found[0]["top"][0]["class"]
    assert len(found[0]["top"]) == 3
    assert not (tmp_path / "prediction.png").exists()


def test_the_runs_own_pictures_are_answered_as_they_were_recorded(predict, store):
    (run,) = store.client.search_runs(["1"])
    recorded = {}
    for line in csv.DictReader(io.StringIO(reader.artifact(store.client, run.info.run_id, "predictions.csv"))):
        recorded[line["file"]] = float(line[line["predicted"]])
    status, lines, err = predict("--split", "test", "--count", 100, "--json")
    assert status == 0, err
    found = {each["file"]: each["probability"] for each in map(json.loads, lines)}
    assert found.keys() == recorded.keys()
    assert [found[name] for name in recorded] == pytest.approx(list(recorded.values()), rel=1e-5)


def test_what_an_earlier_version_recorded_is_still_read(predict, store, tmp_path):
    """Its stages had no list and no depth of their own."""
    place = shutil.copytree(folder(store), tmp_path / "earlier")
    earlier = connect(None, str(place))
    (run,) = earlier.client.search_runs(["1"])
    earlier.client.delete_tag(run.info.run_id, "thaw.stages")
    config = yaml.safe_load(reader.artifact(earlier.client, run.info.run_id, "config.yaml"))
    del config["training"]["stages"], config["training"]["head"]["unfreeze"], config["training"]["finetune"]["unfreeze"]
    config["training"]["momentum"] = 0.9
    earlier.client.log_text(run.info.run_id, yaml.safe_dump(config), "config.yaml")
    (found,) = reader.runs(earlier, "1")
    (known,) = reader.runs(store, "1")
    assert found.stages == known.stages != ""
    status, lines, err = predict("--split", "test", "--count", 5, "--json", place=place)
    assert status == 0, err
    assert lines == predict("--split", "test", "--count", 5, "--json")[1]


def test_a_draw_is_of_one_class_and_repeats(predict):
    first, again, other = (predict("--split", "train", "--class", "4", "--count", 3, "--seed", seed, "--json")[1]
                           for seed in (0, 0, 1))  # fmt: skip
    assert first == again != other
    assert {json.loads(line)["true"] for line in first} == {"4"}


def test_the_worst_come_first(predict, store):
    status, lines, err = predict("--worst", 5)
    assert status == 0, err
    pictures = [line for line in lines if line.startswith("digits/")]
    assert len(pictures) == 5
    assert all("wrong, it is" in line for line in pictures)
    heading = lines.index("Confused most often, of all test images:")
    assert " taken for " in lines[heading + 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere/*.jpg"], "nowhere/*.jpg does not exist"),
        (["--worst", 3, "--run", "0123"], "There is no run 0123"),
        (["--worst", 3, "--experiment", "digit"], "There is no experiment digit; recorded are"),
        (["--split", "test", "--class", "cat"], "There is no class cat; the run knows 0, 1"),
        ([], "give pictures, or --split test"),
        (["--worst", 0], "take numbers from 1 up"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(predict, arguments, words):
    status, _, err = predict(*arguments)
    assert status in (1, 2)
    assert words in err
    assert "Traceback" not in err


def test_nothing_of_a_recorded_model_is_executed(store, tmp_path, monkeypatch):
    """A model with a Lambda layer, whose code Keras would run."""
    (run,) = store.client.search_runs(["1"])
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: print("executed") or x)(inputs)).save(tmp_path / "bad.keras")
    assert zipfile.is_zipfile(tmp_path / "bad.keras")
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda *_, **__: str(tmp_path))
    with pytest.raises(ThawError, match="does not load safely"):
        classifier.load(store, run)


def test_the_heat_is_where_the_answer_comes_from():
    """A network that sees red on one side: only the red corner can explain its answer."""
    pixels = keras.Input((16, 16, 3))
    conv = keras.layers.Conv2D(2, 1, use_bias=False)
    dense = keras.layers.Dense(2, "softmax", use_bias=False)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(conv(pixels))
    model = keras.Model(pixels, dense(pooled))
    conv.set_weights([np.array([[1, 0], [0, 0], [0, 1]], np.float32).reshape(1, 1, 3, 2) / 255])
    dense.set_weights([np.eye(2, dtype=np.float32)])
    picture = np.zeros((1, 16, 16, 3), np.float32)
    picture[0, :8, :8, 0] = 255
    picture[0, 8:, 8:, 2] = 100
    (heat,) = grad_cam(*at_pooling(model), picture)
    assert heat[:8, :8].min() == pytest.approx(1)
    assert heat[8:, :].max() == heat[:, 8:].max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EfficientNetB0", "Xception", "VGG16", "InceptionV3", "ResNet50", "MobileNetV2"])
def test_every_backbone_can_be_explained(name, tmp_path):
    network = build(name=name, size=96)
    network.model.save(tmp_path / "m.keras")
    model = keras.saving.load_model(tmp_path / "m.keras", compile=False, safe_mode=True)
    heat = grad_cam(*at_pooling(model), np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3)).astype(np.float32))
    assert heat.shape == (2, *network.backbone.model.output.shape[1:3])
    assert heat.max() == pytest.approx(1)
    assert heat.min() >= 0


def test_the_simplest_run_with_the_best_validation_is_taken_whatever_its_test(tmp_path):
    store = connect(None, str(Workspace(tmp_path / "mlruns").create().root))
    number = store.experiment("pets")
    for name, validation, test, size in (
        ("larger", 0.9, 0.6, 500),
        ("validated", 0.9, 0.5, 20),
        ("lucky", 0.8, 0.7, 10),
    ):
        run = store.client.create_run(number, run_name=name, tags={"thaw.kind": "run"})
        model = store.client.create_logged_model(number, "model", run.info.run_id)
        store.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
        metrics = {"kept_val_accuracy": validation, "test_accuracy": test, "trainable_parameters": size}
        for key, value in metrics.items():
            store.client.log_metric(run.info.run_id, key, value)
        store.client.set_terminated(run.info.run_id)
    assert selection.choose(store, None, "pets").info.run_name == "validated"


def classified(number, truth, explained):
    heat = np.zeros((30, 40), np.float32) if explained else None
    image = np.full((30, 40, 3), 200, np.uint8)
    top = [("Melon", 0.6), ("Lemon", 0.31)]
    return predictions.Classified(f"{number}.png", image, top, ("Melon",), truth and (truth,), 0.31, heat)


@pytest.mark.parametrize("explained", [False, True])
def test_pictures_are_drawn_twelve_a_page_with_what_is_wrong_in_words(tmp_path, explained):
    drawn = [classified(number, "Lemon" if number else "Melon", explained) for number in range(14)]
    figures = list(predictions.pages(drawn, "1 of 14 right"))
    pictures = [sum(bool(axis.images) for axis in figure.findobj(Axes)) for figure in figures]
    assert pictures == ([24, 4] if explained else [12, 2])
    said = [each.get_text().replace("\n", " ") for each in figures[0].findobj(Text)]
    assert "1 of 14 right" in said
    assert "Melon (0.60)" in said
    assert "predicted Melon, true Lemon (0.31)" in said
    paths = predictions.save_pages(figures, tmp_path / "prediction.png")
    assert [path.name for path in paths] == ["prediction.png", "prediction-2.png"]
    assert all(path.stat().st_size > 10_000 for path in paths)


def test_the_heat_is_seen_on_any_color():
    yellow = np.full((8, 8, 3), (250, 220, 40), np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[:4] = 1
    overlaid = predictions._overlaid(yellow, heat)
    assert np.abs(overlaid[:4].mean(axis=(0, 1)) - overlaid[4:].mean(axis=(0, 1))).max() > 0.3


def test_only_so_many_pictures_are_drawn():
    figures = list(predictions.pages([classified(number, None, False) for number in range(predictions.MOST + 30)], ""))
    assert len(figures) == predictions.MOST // predictions.PAGE


def test_a_run_whose_predictions_are_lost_says_so(predict, monkeypatch):
    monkeypatch.setattr(reader, "predictions", lambda *_: [])
    status, _, err = predict("--worst", 3)
    assert (status, err) == (1, "The run has no recorded predictions, or they are lost; give image files instead\n")
