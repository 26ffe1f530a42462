from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import REAL, ROOT
from omegaconf import OmegaConf

from thaw import downloads
from thaw.config.schema import Backbone, Weights
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.models.backbones import applications
from thaw.models.backbones.applications import application
from thaw.models.weights import initialize, weights_digest

MOBILENET = Backbone(name="MobileNet", image_size=224, smallest_size=32, alpha=0.25)


def batches():
    generator = np.random.default_rng(0)
    return [generator.uniform(0, 255, (8, 32, 32, 3)).astype(np.float32) for _ in range(3)]


def load(weights, network=MOBILENET, images=None, seed=0, size=32):
    backbone = applications.build(network, weights, Images(size), seed)
    return initialize(backbone, batches() if images is None else images)


def test_random_weights_get_their_statistics_from_images():
    loaded = load(Weights(source="random"))
    assert loaded.weights == "random"
    first = next(layer for layer in loaded.model.layers if isinstance(layer, keras.layers.BatchNormalization))
    inputs = keras.Model(loaded.model.input, first.input)
    means = [inputs(loaded.preprocess(batch.copy())).numpy().mean(axis=(0, 1, 2)) for batch in batches()]
    np.testing.assert_allclose(first.moving_mean.numpy(), np.mean(means, axis=0), rtol=1e-4, atol=1e-6)
    features = loaded.model(loaded.preprocess(batches()[0]), training=False).numpy()
    assert features.std() > 0.01
    assert all(each.momentum > 0.9 for each in loaded.model.layers if isinstance(each, keras.layers.BatchNormalization))


def test_the_last_units_start_anew_behind_the_pretrained_ones():
    pretrained = load(Weights(source="random"), seed=5)
    network = replace(pretrained, weights="file")  # as if they had been read
    count, before = 12, pretrained.model.get_weights()
    start = next(n for n, each in enumerate(network.model.weights) if each is network.units[-count:][0].weights[0])
    fresh = [initialize(network, batches(), fresh=count, seed=seed) for seed in (0, 1)]
    assert len({pretrained.digest, *(each.digest for each in fresh)}) == 3
    after = network.model.get_weights()
    for one, other in zip(before[:start], after[:start], strict=True):
        np.testing.assert_array_equal(one, other)
    kernels = [n for n in range(start, len(before)) if before[n].ndim > 1]
    assert kernels
    assert not any(np.array_equal(before[n], after[n]) for n in kernels)
    first = next(each for each in network.units[-count:] if isinstance(each, keras.layers.BatchNormalization))
    inputs = keras.Model(network.model.input, first.input)
    means = [inputs(network.preprocess(batch.copy())).numpy().mean(axis=(0, 1, 2)) for batch in batches()]
    np.testing.assert_allclose(first.moving_mean.numpy(), np.mean(means, axis=0), rtol=1e-3, atol=1e-5)
    assert all(layer.trainable for layer in network.units)


def test_weights_are_named_by_a_digest_of_their_bytes():
    loaded, again, other = (load(Weights(source="random"), seed=seed) for seed in (0, 0, 1))
    assert loaded.digest == again.digest != other.digest
    loaded.model.weights[0].assign_add(np.full(loaded.model.weights[0].shape, 1e-6))
    assert weights_digest(loaded.model) != again.digest


def test_weights_come_from_a_file(tmp_path):
    given = load(Weights(source="random"), seed=5)
    given.model.save_weights(tmp_path / "given.weights.h5")
    loaded = load(Weights(source="file", path=str(tmp_path / "given.weights.h5")), images=[])
    assert loaded.weights == "file"
    for one, other in zip(given.model.get_weights(), loaded.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


OURS = [OmegaConf.load(path) for path in sorted((ROOT / "conf" / "backbone").glob("*.yaml")) if path.stem != "keras"]


@pytest.mark.parametrize("network", OURS, ids=lambda each: each.name)
def test_the_file_of_imagenet_gives_the_features_of_imagenet(tmp_path, monkeypatch, network):
    network = Backbone(**network)
    path, size = tmp_path / "made.weights.h5", network.smallest_size
    _, constructor = application(network.name)
    constructor(weights=None, include_top=False, input_shape=(size, size, 3)).save_weights(path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: str(path))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    features = {}
    for source in ("imagenet", "file"):
        loaded = load(Weights(source=source, path=str(path)), network, [], size=size)
        features[source] = loaded.model(loaded.preprocess(pixels.copy()), training=False).numpy()
        assert loaded.weights == source
    assert features["imagenet"].std() > 0
    np.testing.assert_array_equal(features["file"], features["imagenet"])


def test_weights_that_do_not_exist_or_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ThawError, match="absent.h5 is not a file"):
        load(Weights(source="file", path="absent.h5"))
    load(Weights(source="random")).model.save_weights(tmp_path / "narrow.weights.h5")
    wide = MOBILENET.model_copy(update={"alpha": 0.5})
    with pytest.raises(ThawError, match=r"narrow.weights.h5 does not fit"):
        load(Weights(source="file", path=str(tmp_path / "narrow.weights.h5")), wide)
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(ThawError, match=r"text.h5 does not fit"):
        load(Weights(source="file", path=str(tmp_path / "text.h5")))


def test_a_network_that_keras_does_not_have_is_refused():
    with pytest.raises(ThawError, match=r"name=DenseNet12.*did you mean DenseNet121\?"):
        load(Weights(source="random"), Backbone(name="DenseNet12", image_size=32, smallest_size=32))
    with pytest.raises(ThawError, match=r"VGG16 has no width to set, received backbone.alpha=0.5"):
        load(Weights(source="random"), Backbone(name="VGG16", image_size=32, smallest_size=32, alpha=0.5))


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A home without downloaded weights, and a host that takes connections to nowhere."""
    monkeypatch.setattr(keras.config, "keras_home", lambda: str(tmp_path), raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(downloads, "reachable", lambda host, port=443: False)


def test_without_a_network_auto_is_random_with_one_warning_for_the_host(no_network, capsys, caplog, monkeypatch):
    monkeypatch.setattr(applications, "_warned", set())
    for _ in range(2):
        assert load(Weights(source="auto")).weights == "random"
    (warning,) = caplog.messages
    assert warning.startswith("WARNING: ImageNet weights cannot be downloaded (storage.googleapis.com is unreachable)")
    assert capsys.readouterr().out == ""  # nor does Keras say where it would have downloaded from


def test_without_a_network_imagenet_is_refused_with_what_to_do(no_network):
    with pytest.raises(ThawError, match=r"weights=imagenet cannot be downloaded.*weights=random"):
        load(Weights(source="imagenet"))


@pytest.mark.parametrize("name", ["EfficientNetB0", "MobileNetV2", "VGG16", "ResNet50"])
def test_preprocessing_belongs_to_the_backbone(name):
    module = application(name)[0]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    symbolic = keras.Input((8, 8, 3))
    inside = keras.Model(symbolic, module.preprocess_input(symbolic)).predict(pixels, verbose=0)
    np.testing.assert_allclose(inside, module.preprocess_input(pixels.copy()), rtol=1e-5, atol=1e-4)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real weights at {REAL}; set THAW_REAL")
def test_real_weights_have_their_known_digest():
    mobilenet = Backbone(name="MobileNetV2", image_size=224, smallest_size=32, alpha=0.35)
    path = REAL / "mobilenet_v2_0.35_224_imagenet_notop.h5"
    loaded = load(Weights(source="file", path=str(path)), mobilenet, [], size=160)
    assert loaded.model.count_params() == 410_208
    assert loaded.digest == load(Weights(source="file", path=str(path)), mobilenet, [], 9, 160).digest
