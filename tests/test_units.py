"""Units, blocks, costs and cuts of backbones."""

import keras
import pytest

from thaw.config import schema
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.models import graph, units
from thaw.models.backbones import applications
from thaw.models.heads import Labels
from thaw.models.network import build_network

# Multiply-adds in units of 10**9, as published (Chollet 2017; Tan and Le 2019; Simonyan and Zisserman 2015; He et al.
# 2016; Szegedy et al. 2016; Sandler et al. 2018; Liu et al. 2022).
PUBLISHED = [
    ("Xception", 224, 4.6),
    ("EfficientNetB0", 224, 0.39),
    ("VGG16", 224, 15.5),
    ("ResNet50", 224, 3.9),
    ("InceptionV3", 299, 5.7),
    ("MobileNetV2", 224, 0.30),
    ("ConvNeXtTiny", 224, 4.5),
]


def backbone(name, size=96):
    settings = schema.Backbone(name=name, image_size=size, smallest_size=1)
    return applications.build(settings, schema.Weights(source="random"), Images(size), 0)


@pytest.mark.parametrize(("name", "size", "published"), PUBLISHED)
def test_every_layer_that_multiplies_counts(name, size, published):
    layers = backbone(name, size).units
    assert sum(map(graph.multiply_adds, layers)) / 1e9 == pytest.approx(published, rel=0.05)


def test_attention_and_layers_inside_layers_count():
    tokens = keras.Input((10, 8))
    attended = keras.layers.MultiHeadAttention(2, 4, use_bias=False)
    inner = keras.Sequential([keras.layers.Dense(16, use_bias=False), keras.layers.Dense(8, use_bias=False)])
    keras.Model(tokens, inner(attended(tokens, tokens)))
    assert graph.multiply_adds(attended) == 4 * 10 * 8 * 8 + 2 * 10 * 10 * 2 * 4
    assert graph.multiply_adds(inner) == 10 * 2 * 8 * 16


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("Xception", 14, [("block12", 10), ("block13", 10), ("block14", 6)]),  # Keras numbers the shortcuts' layers
        ("InceptionV3", 16, [("mixed8", 20), ("mixed9", 31), ("mixed10", 31)]),
        ("EfficientNetB0", 18, [("block6d", 15), ("block7a", 13), ("top_conv", 3)]),
        ("VGG16", 5, [("block3", 4), ("block4", 4), ("block5", 4)]),
        ("ResNet50", 17, [("conv5_block1", 12), ("conv5_block2", 10), ("conv5_block3", 10)]),
        ("MobileNetV2", 19, [("block_15", 9), ("block_16", 8), ("Conv_1", 3)]),
        ("ConvNeXtTiny", 22, [(f"convnext_tiny_stage_3_block_{n}", size) for n, size in ((0, 7), (1, 7), (2, 8))]),
    ],
)
def test_blocks_are_those_of_the_architecture_and_begin_where_one_tensor_crosses(name, count, last):
    found = backbone(name)
    assert [(block.name, block.size) for block in found.blocks[-3:]] == last
    assert len(found.blocks) == count
    assert sum(block.size for block in found.blocks) == len(found.units)
    order = graph.nodes(found.model)
    points = {id(order[place]) for place in graph.single_tensor_points(order)}
    for block in found.blocks[1:]:
        first = found.units[block.first]
        before = order[order.index(first) - 1]
        assert id(before) in points, block.name


def test_a_network_without_names_has_a_block_for_each_layer_that_multiplies():
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(pixels)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.MaxPooling2D()(keras.layers.Conv2D(4, 3, name="second")(x))
    found = units.find_blocks(keras.Model(pixels, x))
    assert [(block.name, block.size) for block in found] == [("conv2d", 4), ("second", 2)]


BLOCKS = [units.Block("stem", 0, 4), units.Block("a", 4, 10), units.Block("b", 14, 6)]


@pytest.mark.parametrize(
    ("unfreeze", "depth"),
    [
        (0, 0), (7, 7), ("1block", 6), ("2blocks", 16), ("3blocks", 20), ("all", "all"), ("block1..block2", (0, 14)),
        ("block2..block2", (4, 14)),
    ],
)  # fmt: skip
def test_a_depth_is_given_in_layers_or_in_blocks(unfreeze, depth):
    assert units.resolve(unfreeze, BLOCKS, "net") == depth


@pytest.mark.parametrize(
    ("unfreeze", "words"),
    [(21, "unfreeze=21 is beyond net, which has 20 layers; give 0 to 20 or all"),
     ("4blocks", "unfreeze=4blocks is beyond net, which has 3 blocks; give 1block to 3blocks, or all"),
     ("block2..block4", "unfreeze=block2..block4 is no range of the 3 blocks of net; give block1..block3 or a part"),
     ("block3..block2", "unfreeze=block3..block2 is no range of the 3 blocks of net")],
)  # fmt: skip
def test_a_depth_beyond_the_backbone_is_refused(unfreeze, words):
    with pytest.raises(ThawError, match=words):
        units.resolve(unfreeze, BLOCKS, "net")
    assert units.within([unfreeze, 3, "1block"], BLOCKS) == [3, 6]


@pytest.mark.parametrize(
    ("depth", "layers", "whole", "boundary"),
    [
        (0, 0, 0, "the head"),
        (6, 6, 1, "b"),
        (7, 7, 1, "a, its last 1 of 10 layers"),
        (16, 16, 2, "a"),
        ("all", 20, 3, "stem"),
        ((0, 14), 14, 2, "stem to a"),
        ((4, 14), 10, 1, "a to a"),
    ],
)
def test_a_depth_is_recorded_in_layers_and_blocks(depth, layers, whole, boundary):
    assert units.describe(depth, BLOCKS) == {
        "unfrozen.layers": layers,
        "unfrozen.blocks": whole,
        "unfrozen.boundary": boundary,
    }


@pytest.mark.parametrize(("depth", "trains"), [(0, []), (3, [17, 18, 19]), ((4, 6), [4, 5]), (99, list(range(20)))])
def test_what_trains_is_known_by_position(depth, trains):
    assert list(units.positions(depth, 20)) == trains


def test_blocks_that_start_anew_have_to_train():
    assert units.fresh(0, 0, BLOCKS, "net") == 0
    assert units.fresh("2blocks", 16, BLOCKS, "net") == units.fresh("2blocks", "all", BLOCKS, "net") == 16
    for depth in (0, 6, 15, (0, 14)):
        with pytest.raises(
            ThawError, match="reinit=2blocks starts layers anew that unfreeze leaves frozen; give unfreeze"
        ):
            units.fresh("2blocks", depth, BLOCKS, "net")
    with pytest.raises(ThawError, match="reinit=9blocks is beyond net, which has 3 blocks"):
        units.fresh("9blocks", "all", BLOCKS, "net")


# The cheapest place to cut at 224 px, by the positions of the nodes whose outputs cross, as `make cuts` measured it.
CHEAPEST = {
    "Xception": {
        5: (128,), 10: (115, 123), 15: (115,), 20: (112, 105), 30: (102, 95), 40: (92, 85), 50: (82, 75), 60: (72, 65),
        80: (52, 45), 100: (25, 33),
    },
    "EfficientNetB0": {
        5: (231,), 10: (228, 226), 15: (223,), 20: (216, 205), 30: (208, 205), 40: (198, 196, 190), 50: (186, 175),
        60: (178, 175), 80: (157, 146), 100: (139, 137, 131),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CHEAPEST)
def test_a_network_is_cut_where_measurement_says_it_is_cheapest(name):
    network = build_network(backbone(name, 224), schema.Head(), Labels(10), Images(224), 1, 0)
    assert {depth: network.cut(depth).crossing for depth in CHEAPEST[name]} == CHEAPEST[name]
