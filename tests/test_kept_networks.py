"""Networks that serve the runs of a process one after the other."""

import errno

import keras
import numpy as np
import pytest
from commands import numbers
from conftest import TINY
from networks import images, planned

from thaw import files
from thaw.array_store import ArrayStore
from thaw.cli import train as cli
from thaw.config import schema
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.models import reuse, weights
from thaw.models.backbones import applications
from thaw.models.heads import Labels
from thaw.models.weights import weights_digest
from thaw.training.batches import sample_examples
from thaw.training.memory import estimate

MOBILENET = schema.Backbone(name="MobileNet", image_size=32, smallest_size=32, alpha=0.25)
RANDOM, HEAD, DEPTH = schema.Weights(source="random"), schema.Head(hidden=4, dropout=0.5), 8


@pytest.fixture(autouse=True)
def of_a_new_process():
    cli.NETWORKS.clear()
    yield
    cli.NETWORKS.clear()


@pytest.fixture
def built(monkeypatch):
    """The seed of each network that was built."""
    seeds, build = [], applications.build
    monkeypatch.setattr(applications, "build", lambda *given: seeds.append(given[-1]) or build(*given))
    return seeds


@pytest.fixture
def measured(monkeypatch):
    """A list that grows each time batch-norm statistics are computed."""
    times, measure = [], weights.set_batch_norm_statistics
    monkeypatch.setattr(weights, "set_batch_norm_statistics", lambda *given: times.append(1) or measure(*given))
    return times


def started(networks, seed=0, source=RANDOM, split=None, store=None, head=HEAD):
    """The network of a run from random weights."""
    split = images() if split is None else split
    backbone = networks.backbone(MOBILENET, source, Images(32), seed, from_scratch=False)
    key = f"{seed} {split.digest}"
    backbone = networks.initialize(backbone, sample_examples(split, Images(32)), store, key)
    return networks.network(backbone, head, Labels(3), Images(32), DEPTH, seed)


def test_images_that_cannot_be_read_leave_the_initial_weights_of_the_runs_before(built):
    """The statistics of random weights are measured again for other images, and fail halfway."""
    networks = reuse.Networks({})
    before = started(networks)
    kept, momenta = before.backbone.model.get_weights(), momenta_of(before)

    def broken():
        yield np.zeros((8, 32, 32, 3), np.float32)
        raise ThawError("x.png does not decode")

    backbone = networks.backbone(MOBILENET, RANDOM, Images(32), 0, from_scratch=False)
    with pytest.raises(ThawError):
        networks.initialize(backbone, broken(), None, "other images")
    after = started(networks)
    assert after.backbone.digest == before.backbone.digest
    for one, other in zip(kept, after.backbone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert momenta_of(after) == momenta


def momenta_of(network):
    """Of batch normalization."""
    return [each.momentum for each in network.backbone.units if isinstance(each, keras.layers.BatchNormalization)]


def spoil(network):
    """Change every weight that a run to the depth of `started` might."""
    for layer in [*network.training_units(DEPTH), *network.head]:
        layer.set_weights([each + 1 for each in layer.get_weights()])
    network.unfreeze("all")


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ("adam", "float32"),
        pytest.param("adamw", "float32", marks=pytest.mark.slow),
        pytest.param("rmsprop", "float32", marks=pytest.mark.slow),
        pytest.param("sgd", "mixed_float16", marks=pytest.mark.slow),
    ],
)
def test_a_run_has_the_same_bits_whatever_runs_came_before_it(command, client, built, tmp_path, optimizer, precision):
    run = [*TINY, "head.hidden=8", "head.dropout=0.5", "augmentation=light", "training.head.epochs=2"]
    run += ["unfreeze=6", f"optimizer={optimizer}"]
    run += [f"training.precision={precision}"]
    assert command(*run)[0] == 0
    (alone,) = client().search_runs(["1"])
    assert built == [0]
    cli.NETWORKS.clear()
    earlier = ["training.head.learning_rate=0.1", "training.finetune.learning_rate=0.05"]
    elsewhere = f"store={tmp_path / 'b' / 'mlruns'}"
    assert command(*run, *earlier, elsewhere)[0] == 0
    for folder in ("stages", "runs"):
        assert any((tmp_path / "b" / "mlruns" / folder).iterdir())
    assert command(*run, elsewhere)[0] == 0
    assert built == [0, 0]
    client = type(client())(f"sqlite:///{tmp_path / 'b' / 'mlruns' / 'mlflow.db'}")
    after, before = client.search_runs(["1"])
    assert before.data.params["with.training.head.learning_rate"] == "0.1"
    assert numbers(client, after) == numbers(client_of(tmp_path), alone)
    assert numbers(client, after) != numbers(client, before)


def client_of(folder):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")


@pytest.mark.slow
def test_runs_of_many_kinds_in_one_process_have_the_bits_of_each_alone(command, client, tmp_path):
    kinds = [
        ["unfreeze=6"],
        ["unfreeze=3", "fraction=50"],
        ["unfreeze=all"],
        ["unfreeze=3", "head.hidden=8", "head.dropout=0.5", "augmentation=light"],
        ["unfreeze=3", "optimizer=sgd", "training.head.patience=1"],
        ["unfreeze=3", "optimizer=adamw", "optimizer.ema=0.9", "optimizer.layer_decay=0.5", "optimizer.accumulate=2"],
        ["unfreeze=6", "dataset.image_size=40"],
        ["unfreeze=6", "training.class_weights=balanced"],
        ["unfreeze=0", "seed=1"],
        ["unfreeze=6", "training.stages=[finetune,head]"],
        ["unfreeze=3", "dataset.image_size=64", "resolution=progressive"],
        ["unfreeze=3", "regularisation=l2sp", "loss=focal", "augmentation=mixup"],
        ["unfreeze=block1..block2"],
        ["training=gradual", "unfreeze=2blocks"],
        ["unfreeze=6", "activations=off", "training.batch_size=12"],
    ]
    for kind in kinds:
        assert command(*TINY, *kind)[0] == 0
    together = client().search_runs(["1"], order_by=["attributes.start_time"])
    for number, (kind, run) in enumerate(zip(kinds, together, strict=True)):
        cli.NETWORKS.clear()
        status, _, err = command(*TINY, *kind, f"store={tmp_path / str(number) / 'mlruns'}")
        assert status == 0, err
        alone = client_of(tmp_path / str(number))
        assert numbers(alone, alone.search_runs(["1"])[0]) == numbers(client(), run), kind


def test_a_network_is_built_once_and_begins_each_run_with_its_initial_weights(built):
    networks = reuse.Networks({})
    first = started(networks)
    initial = first.model.get_weights()
    spoil(first)
    again = started(networks)
    assert built == [0]
    assert again.model is first.model
    assert again.backbone.digest == first.backbone.digest == weights_digest(first.backbone.model)
    for one, other in zip(again.model.get_weights(), initial, strict=True):
        np.testing.assert_array_equal(one, other)
    spoil(first)
    other_head = started(networks, head=schema.Head())
    assert built == [0]
    assert len(other_head.head) == 2
    fresh = started(reuse.Networks({}), head=schema.Head())
    assert list(other_head.trainable.values()) == list(fresh.trainable.values())
    for one, other in zip(other_head.model.get_weights(), fresh.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_has_random_weights_of_its_own_and_only_a_new_head_on_those_of_a_file(built, tmp_path):
    networks = reuse.Networks({})
    random, other = started(networks), started(networks, seed=1)
    assert built == [0, 1]
    assert random.backbone.digest != other.backbone.digest
    file = tmp_path / "some.weights.h5"
    random.backbone.model.save_weights(file)
    source = schema.Weights(source="file", path=str(file))
    first = started(networks, source=source)
    of_seed_0 = first.model.get_weights()
    second = started(networks, seed=1, source=source)
    assert built == [0, 1, 0]
    assert second.backbone.digest == first.backbone.digest
    assert not np.array_equal(second.model.get_weights()[-2], of_seed_0[-2])
    other.backbone.model.save_weights(file)
    assert started(networks, source=source).backbone.digest != first.backbone.digest
    assert built == [0, 1, 0, 0]


@pytest.mark.parametrize("depth", [0, 3])
def test_what_an_earlier_run_froze_is_neither_measured_nor_counted_otherwise(built, depth):
    networks, others = reuse.Networks({}), images(20, 1)
    started(networks).unfreeze(depth)
    kept, fresh = started(networks, split=others), started(reuse.Networks({}), split=others)
    assert built == [0, 0]
    assert kept.backbone.digest == fresh.backbone.digest
    started(networks).unfreeze(depth)
    backbone = networks.backbone(MOBILENET, RANDOM, Images(32), 0, from_scratch=False)
    training = schema.Training()
    stages = planned(schema.Config(training=training, unfreeze=20), backbone)
    needed = [
        estimate(each, HEAD, training, stages, Images(32), 3, 20)["gradients and optimizer"]
        for each in (backbone, applications.build(MOBILENET, RANDOM, Images(32), 0))
    ]
    assert needed[0] == needed[1]


def test_random_weights_with_their_statistics_are_computed_once_for_all_processes(measured, tmp_path):
    digests = [
        started(reuse.Networks({}), seed, split=split, store=ArrayStore(tmp_path, 1.0)).backbone.digest
        for seed, split in [(0, images()), (0, images()), (0, images(20, 1)), (1, images())]
    ]
    assert len(measured) == 3
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert started(reuse.Networks({})).backbone.digest == digests[0]


@pytest.mark.parametrize("room", [0.0, 1.0])
def test_stored_weights_that_are_damaged_or_do_not_fit_are_computed_again(measured, tmp_path, room):
    digest = started(reuse.Networks({}), store=ArrayStore(tmp_path, room)).backbone.digest
    for file in tmp_path.glob("*/0.npy"):
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)
    again = started(reuse.Networks({}), store=ArrayStore(tmp_path, room))
    assert again.backbone.digest == digest
    assert len(measured) == 2


def test_a_disk_that_is_full_costs_no_statistics(monkeypatch, tmp_path):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    digest = started(reuse.Networks({})).backbone.digest
    monkeypatch.setattr(files, "reserve", full)
    store = ArrayStore(tmp_path, 1.0)
    assert started(reuse.Networks({}), store=store).backbone.digest == digest
    assert not list(tmp_path.glob("*/digests.json"))
