"""Models in MLflow's format: what is copied from an earlier run is what Keras would write."""

import io
import zipfile
from dataclasses import replace

import h5py
import mlflow
import numpy as np
import pytest
import yaml
from networks import DROPOUT, build, images

from thaw.runs.saved_model import FILE, METADATA, WEIGHTS, save_model

CLASSES = 3


@pytest.fixture
def network():
    return build("Small", 8, DROPOUT)


@pytest.fixture
def keras_saves(monkeypatch):
    """The folders that MLflow had Keras save to."""
    folders, save = [], mlflow.tensorflow.save_model
    monkeypatch.setattr(
        mlflow.tensorflow, "save_model", lambda model, path, **given: folders.append(path) or save(model, path, **given)
    )
    return folders


def train(network, depth):
    """Change all that training to a depth may change."""
    network.unfreeze(depth)
    for layer in [*network.training_units(depth), *network.head]:
        layer.set_weights([each + 1 for each in layer.get_weights()])


def contents(path):
    """The members of a Keras file, its weights as arrays."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    arrays = {}
    with h5py.File(io.BytesIO(members.pop(WEIGHTS))) as weights:
        weights.visititems(lambda name, item: arrays.update({name: item[...]} if hasattr(item, "shape") else {}))
    assert members.pop(METADATA)
    return members, arrays


@pytest.mark.parametrize("depth", [0, 8])
def test_a_later_run_records_what_keras_would_save(network, keras_saves, tmp_path, depth):
    for name in ("first", "second"):
        train(network, depth)
        save_model(network, depth, CLASSES, tmp_path / name)
    assert keras_saves == [tmp_path / "first"]
    network.model.save(tmp_path / "plain.keras")
    members, arrays = contents(tmp_path / "second" / FILE)
    expected, expected_arrays = contents(tmp_path / "plain.keras")
    assert members == expected
    assert arrays.keys() == expected_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected_arrays[name], name)
    pixels = images(8).images.astype(np.float32)
    loaded = mlflow.tensorflow.load_model(str(tmp_path / "second"))
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), network.model.predict(pixels, verbose=0), atol=1e-6)
    first, second = (yaml.safe_load((tmp_path / name / "MLmodel").read_text()) for name in ("first", "second"))
    assert first.pop("utc_time_created") < second.pop("utc_time_created")
    assert first == second


def test_another_depth_and_other_initial_weights_are_saved_by_keras(network, keras_saves, tmp_path):
    save_model(network, 0, CLASSES, tmp_path / "a")
    train(network, 8)
    save_model(network, 8, CLASSES, tmp_path / "b")
    network.backbone.model.set_weights([each + 1 for each in network.backbone.model.get_weights()])
    save_model(replace(network, backbone=replace(network.backbone, digest="another")), 8, CLASSES, tmp_path / "c")
    assert [path.name for path in keras_saves] == ["a", "b", "c"]


def test_a_file_whose_arrays_are_not_those_of_the_layers_is_not_copied(network, keras_saves, monkeypatch, tmp_path):
    save = mlflow.tensorflow.save_model

    def save_another(model, path, **given):
        save(model, path, **given)
        train(network, 8)

    monkeypatch.setattr(mlflow.tensorflow, "save_model", save_another)
    for name in ("first", "second"):
        save_model(network, 8, CLASSES, tmp_path / name)
    assert [path.name for path in keras_saves] == ["first", "second"]
