import keras
import numpy as np
import pytest
from networks import FIRST_CUTS, LINEAR, build

from thaw.config.schema import Head
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.models.backbone import Backbone
from thaw.models.graph import as_inputs, nodes, reseed_dropout
from thaw.models.heads import Labels
from thaw.models.kernels import Convolution, fast
from thaw.models.network import build_network


def trainable(net):
    return {variable.path for variable in net.model.trainable_variables}


HEAD = {"probabilities/kernel", "probabilities/bias"}


def test_with_nothing_unfrozen_only_the_head_trains():
    net = build()
    net.unfreeze(0)
    assert trainable(net) == HEAD


@pytest.mark.parametrize("depth", [1, 5, 20])
def test_the_last_layers_train_but_not_their_batch_norm(depth):
    net = build(depth=depth)
    net.unfreeze(depth)
    expected = {
        variable.path
        for layer in net.backbone.model.layers[-depth:]
        if not isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.weights
    }
    assert trainable(net) == HEAD | expected


def test_unfreezing_after_freezing_reaches_every_layer():
    net = build(depth="all")
    net.unfreeze(0)
    net.unfreeze("all")
    assert trainable(net) == {
        v.path for v in net.model.weights if not v.path.endswith(("moving_mean", "moving_variance"))
    }
    net.unfreeze(3)
    assert trainable(net) < {v.path for v in net.model.weights}
    net.unfreeze(0)
    assert trainable(net) == HEAD


def test_keras_own_shortcut_would_train_nothing_and_is_caught():
    """The trap that the plan is asserted for: a parent's flag that is True already does not reach its children."""
    net = build(depth=5)
    net.backbone.model.trainable = True
    for layer in net.backbone.model.layers:
        layer.trainable = False
    net.backbone.model.trainable = True
    assert trainable(net) == HEAD
    net.unfreeze(5)
    assert trainable(net) > HEAD


def test_a_layer_that_does_not_train_as_planned_stops_the_run():
    net = build(depth=5)
    net.unfreeze(5)
    net.verify(net.model, 5)
    net.verify(net.cut(5).tail, 5)
    next(
        layer for layer in reversed(net.backbone.model.layers) if net.plan(5) & net.trainable[layer.name]
    ).trainable = False
    with pytest.raises(AssertionError, match="kernel"):
        net.verify(net.model, 5)


def test_a_depth_beyond_the_backbone_is_refused():
    count = len(build().backbone.model.layers)
    build(depth=count).unfreeze(count)
    with pytest.raises(ThawError, match=f"unfreeze={count + 1} is beyond .* which has {count} layers"):
        build(depth=count + 1)


def test_batch_norm_trains_only_from_scratch():
    assert build(depth=20).batch_norm == "frozen"
    scratch = build(depth="all")
    assert scratch.batch_norm == "train"
    scratch.unfreeze("all")
    scratch.model.compile("sgd", "sparse_categorical_crossentropy")
    before = {v.path: v.numpy() for v in scratch.model.weights}
    scratch.model.train_on_batch(np.random.default_rng(1).uniform(0, 255, (8, 32, 32, 3)), np.zeros(8))
    for variable in scratch.model.weights:
        if variable.path.endswith(("moving_mean", "gamma")):
            assert not np.array_equal(before[variable.path], variable.numpy()), variable.path


@pytest.mark.parametrize("depth", [6, (3, 9), (0, 3)])
def test_frozen_variables_keep_every_bit_while_others_change(depth):
    net = build(depth=6)
    net.unfreeze(depth)
    net.model.compile("adam", "sparse_categorical_crossentropy")
    before = {v.path: v.numpy() for v in net.model.weights}
    net.model.train_on_batch(np.random.default_rng(1).uniform(0, 255, (8, 32, 32, 3)), np.zeros(8))
    planned = net.plan(depth)
    assert len(planned) > 2
    changed = {v.path for v in net.model.weights if not np.array_equal(before[v.path], v.numpy())}
    assert changed <= planned
    assert {path for path in planned if path.endswith("kernel")} <= changed


@pytest.mark.parametrize(
    ("head", "shapes"),
    [
        (LINEAR, [(256, 3)]),
        (Head(pooling="max", hidden=7, dropout=0.5), [(256, 7), (7, 3)]),
        (Head(pooling="flatten", hidden=4, dropout=0.0), [(256, 4), (4, 3)]),
    ],
)
def test_heads_have_the_layers_asked_for(head, shapes):
    net = build(head=head)
    net.unfreeze(0)
    kernels = [variable.shape for variable in net.model.trainable_variables if variable.path.endswith("kernel")]
    assert [tuple(shape) for shape in kernels] == shapes
    out = net.model.predict(np.full((2, 32, 32, 3), 128.0, np.float32), verbose=0)
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)


def test_the_head_does_not_depend_on_what_was_drawn_before():
    one, before = build(seed=3), keras.utils.set_random_seed(99)
    again = build_network(one.backbone, LINEAR, Labels(3), Images(32), 0, seed=3)
    other = build_network(one.backbone, LINEAR, Labels(3), Images(32), 0, seed=4)
    assert before is None
    kernels = [net.head[-1].kernel.numpy() for net in (one, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_a_saved_network_takes_pixels_and_loads_in_safe_mode(tmp_path):
    net = build(name="VGG16")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    net.model.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(pixels, verbose=0), net.model.predict(pixels, verbose=0))


def test_dropout_depends_on_the_seed_given_and_not_on_calls_before():
    net = build(head=Head(pooling="avg", hidden=0, dropout=0.5))
    pixels = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    reseed_dropout(net.model, (0, 1, 2))
    first = net.model(pixels, training=True).numpy()
    assert not np.array_equal(net.model(pixels, training=True).numpy(), first)
    reseed_dropout(net.model, (0, 1, 2))
    np.testing.assert_array_equal(net.model(pixels, training=True).numpy(), first)
    reseed_dropout(net.model, (0, 1, 3))
    assert not np.array_equal(net.model(pixels, training=True).numpy(), first)


def folded(model):
    """How many batch normalizations of a model are folded."""
    convolutions = [layer for layer in model._flatten_layers() if isinstance(layer, Convolution)]
    return sum(each.normalization is not None for each in convolutions)


@pytest.mark.parametrize(("name", "size", "depths"), FIRST_CUTS)
def test_a_network_cut_in_two_gives_the_same_numbers_as_the_whole(name, size, depths):
    net = build(name=name, size=size)
    pixels = np.random.default_rng(1).uniform(0, 255, (8, size, size, 3)).astype(np.float32)
    whole = fast(net.model, fold=True).predict_on_batch(pixels)
    np.testing.assert_allclose(whole, net.model.predict_on_batch(pixels), atol=1e-3)  # as Keras computes it
    pooled = net.cut(0)
    several = 0
    for depth in depths:
        net.unfreeze(depth)
        cut = net.cut(depth)
        net.verify(cut.tail, depth)
        assert not cut.frozen.trainable_variables
        assert folded(cut.frozen) + folded(cut.tail) == folded(fast(net.model, fold=True))
        crossing = keras.tree.flatten(cut.frozen.predict_on_batch(pixels))
        several += len(crossing) > 1
        np.testing.assert_array_equal(cut.tail.predict_on_batch(as_inputs(crossing)), whole)
        if cut.key != pooled.key:
            between = net.between(cut, pooled).predict_on_batch(as_inputs(crossing))
            np.testing.assert_array_equal(
                keras.tree.flatten(between)[0], keras.tree.flatten(pooled.frozen.predict_on_batch(pixels))[0]
            )
            assert net.between(pooled, cut) is None
    assert several or name in ("VGG16", "MobileNetV2")


@pytest.mark.parametrize(("name", "size", "depths"), FIRST_CUTS)
def test_what_crosses_for_a_deeper_cut_gives_what_crosses_for_a_shallower_one(name, size, depths):
    net = build(name=name, size=size)
    pixels = np.random.default_rng(1).uniform(0, 255, (8, size, size, 3)).astype(np.float32)
    # Where a narrower boundary lies earlier, the cut for fewer layers may be the earlier of the two.
    early, late = sorted((net.cut(depth) for depth in depths[-2:]), key=lambda cut: cut.before)
    crossing = keras.tree.flatten(early.frozen.predict_on_batch(pixels))
    between = keras.tree.flatten(net.between(early, late).predict_on_batch(as_inputs(crossing)))
    for derived, direct in zip(between, keras.tree.flatten(late.frozen.predict_on_batch(pixels)), strict=True):
        np.testing.assert_array_equal(derived, direct)


def test_nothing_is_cut_off_where_everything_trains():
    for name in ("EfficientNetB0", "VGG16"):
        cut = build(name=name, depth="all").cut("all")
        assert cut.frozen is None
        assert cut.crossing == ()


def test_a_narrower_boundary_is_taken_where_what_lies_between_is_cheap():
    """Two copies of one tensor would cross after a free layer; the tensor itself crosses once."""
    pixels = keras.Input((32, 32, 3))
    narrow = keras.layers.Conv2D(4, 3, name="narrow")(pixels)
    left = keras.layers.Activation("relu", name="left")(narrow)
    right = keras.layers.Activation("tanh", name="right")(narrow)
    trained = keras.layers.Conv2D(4, 1, name="trained")(left)
    base = keras.Model(pixels, keras.layers.Concatenate()([trained, right]))
    net = build_network(
        Backbone("narrow", base, lambda x: x, "file", "0"), LINEAR, Labels(3), Images(32), deepest=3, seed=0
    )
    assert [nodes(base)[place].name for place in net.cut(3).crossing] == ["narrow"]


def test_a_frozen_network_has_no_stochastic_depth_under_fit():
    """Keras 3.15 lets the `training=True` of `fit` reach a backbone that was called with `training=False`."""
    frozen, scratch = build(name="EfficientNetB0"), build(name="EfficientNetB0", depth="all")
    pixels = np.random.default_rng(1).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    frozen.unfreeze(20)
    np.testing.assert_array_equal(frozen.model(pixels, training=True), frozen.model(pixels, training=False))
    scratch.unfreeze("all")
    assert not np.array_equal(scratch.model(pixels, training=True), scratch.model(pixels, training=False))
