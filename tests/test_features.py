import gc
import logging
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT
from networks import CUTS, DROPOUT, FLIP, build, created, images, policy, split_of, stage_settings
from PIL import Image

from thaw import provenance
from thaw.config import schema
from thaw.modalities.images import decode
from thaw.training.batches import PLAIN, Views
from thaw.training.callbacks import InputWait
from thaw.training.features import FeatureCache, frozen_batch
from thaw.training.fit import Batches, fit_stage
from thaw.training.stages import Stage


def settings(**changes):
    return schema.Activations(max_gigabytes=1.0, keep=True, dtype="float32").model_copy(update=changes)


@pytest.fixture
def reads(monkeypatch):
    """How often each image was read."""
    count = {}
    real = decode.read

    def counting(source, size, megapixels):
        key = source.tobytes()
        count[key] = count.get(key, 0) + 1
        return real(source, size, megapixels)

    monkeypatch.setattr(decode, "read", counting)
    return count


def activations(folder, net, depths=(0,), **changes):
    return FeatureCache(folder, settings(**changes), net, list(depths))


@pytest.fixture(autouse=True)
def lines(caplog):
    caplog.set_level(logging.INFO, "thaw")


def features(kept, cut, split, views=PLAIN, epochs=range(1)):
    batches = kept.training_batches(cut, split, 8, (0, 0), views, False, epochs)
    return [np.concatenate([np.ravel(t) for t in keras.tree.flatten(x)]) for x, _, _ in batches]


def test_kept_rows_equal_the_frozen_layers_to_the_bit_and_images_are_read_once(tmp_path, reads):
    net = build(depth=6)
    cut = net.cut(6)
    with activations(tmp_path, net, [6]) as kept, activations(tmp_path, net, keep=False) as off:
        online = features(off, cut, images())
        assert sum(reads.values()) == 24
        reads.clear()
        for _ in range(3):
            for one, other in zip(features(kept, cut, images(), epochs=range(2))[:3], online):
                np.testing.assert_array_equal(one, other)
    assert sum(reads.values()) == 24  # 20 images, and a last batch filled up with some of the first


def test_one_pass_over_the_images_serves_every_depth_of_a_sweep(tmp_path, reads):
    net = build(depth=12)
    direct = {}
    with activations(tmp_path / "direct", net, []) as kept:
        for depth in (0, 6, 12):
            direct[depth] = features(kept, net.cut(depth), images())
    assert sum(reads.values()) == 3 * 24
    reads.clear()
    with activations(tmp_path / "shared", net, [0, 6, 12]) as kept:
        for depth in (0, 6, 12):
            for one, other in zip(features(kept, net.cut(depth), images()), direct[depth], strict=True):
                np.testing.assert_array_equal(one, other)
    assert sum(reads.values()) == 24


def test_each_view_is_computed_once_and_epochs_still_differ(tmp_path, reads):
    net = build()
    cut = net.cut(0)
    two = Views(FLIP.policy, 0, 2)
    with activations(tmp_path, net) as kept, activations(tmp_path, net, keep=False) as off:
        first = features(kept, cut, images(16), two, range(4))
        assert len(list(tmp_path.glob("*/digests.json"))) == 2
        reads.clear()
        again = features(kept, cut, images(16), two, range(4))
        assert not reads
        online = features(off, cut, images(16), two, range(4))
    for one, other, plain in zip(first, again, online, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, plain)
    assert sorted(map(tuple, np.sort(first[:2]))) != sorted(map(tuple, np.sort(first[2:4])))


@pytest.mark.parametrize("damage", ["cut short", "one bit", "no digests"])
def test_a_damaged_entry_is_computed_again_with_a_line_that_says_so(tmp_path, damage, caplog):
    net = build()
    with activations(tmp_path, net) as kept:
        good = features(kept, net.cut(0), images())
    (array,) = tmp_path.glob("*/0.npy")
    content = array.read_bytes()
    if damage == "cut short":
        array.write_bytes(content[:-100])
    elif damage == "one bit":
        array.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        (array.parent / "digests.json").write_text("{")
    with activations(tmp_path, net) as kept:
        for one, other in zip(features(kept, net.cut(0), images()), good, strict=True):
            np.testing.assert_array_equal(one, other)
    (line,) = caplog.messages
    assert "damaged and are computed again" in line


def test_what_a_killed_writer_left_is_not_trusted(tmp_path):
    net = build()
    with activations(tmp_path, net) as kept:
        good = features(kept, net.cut(0), images())
    (entry,) = (each.parent for each in tmp_path.glob("*/digests.json"))
    entry.rename(entry.with_suffix(".partial"))
    (entry.with_suffix(".partial") / "0.npy").write_bytes(b"half")
    with activations(tmp_path, net) as kept:
        for one, other in zip(features(kept, net.cut(0), images()), good, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("keep", [True, False])
def test_no_batches_that_training_reads_are_tuned_by_tensorflow(tmp_path, keep):
    net = build()
    with activations(tmp_path, net, keep=keep) as kept:
        batches = kept.training_batches(net.cut(0), images(), 8, (0, 0), PLAIN, False, range(1))
        assert InputWait().watch(batches).options().autotune.enabled is False


WRITE = """
import sys
from pathlib import Path
from filelock import ReadWriteLock
folder = Path(sys.argv[1])
with ReadWriteLock(folder / "locks" / "busy.db").write_lock():
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_others_write_keeps_its_place_and_what_the_killed_left_goes(tmp_path):
    """Of four processes that need room at once, one met the folder of another just before it was renamed."""
    net = build()
    for name in ("locks", "busy.partial", "left.partial"):
        (tmp_path / name).mkdir()
    for name in ("busy.partial", "left.partial"):
        (tmp_path / name / "0.npy").write_bytes(bytes(16 * 256 * 4))
        (tmp_path / name / "digests.json").write_text("{}")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")  # as a folder that is gone when it is looked into
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "writing\n"
    with activations(tmp_path, net, max_gigabytes=2.5 * 16 * 256 * 4 / 1e9) as kept:
        features(kept, net.cut(0), images(16))
    writer.communicate()
    assert (tmp_path / "busy.partial").exists()
    assert not (tmp_path / "left.partial").exists()
    assert len(entries(tmp_path) - {"busy.partial"}) == 1


def test_an_entry_is_found_whatever_number_keras_gives_a_layer(tmp_path, reads):
    first, again = build("Xception", 20, size=71), build("Xception", 20, size=71)
    assert [layer.name for layer in first.backbone.units] != [layer.name for layer in again.backbone.units]
    with activations(tmp_path, first, [20]) as kept:
        features(kept, first.cut(20), images(8))
    reads.clear()
    with activations(tmp_path, again, [20]) as kept:
        features(kept, again.cut(20), images(8))
    assert not reads


@pytest.mark.parametrize("change", ["pixel", "weight", "size", "dtype", "seed", "code"])
def test_an_entry_is_used_only_for_what_it_was_computed_from(tmp_path, change, monkeypatch):
    net, split, views = build(), images(16), FLIP
    with activations(tmp_path, net) as kept:
        features(kept, net.cut(0), split, views)
        if change == "pixel":
            pixels = split.images.copy()
            pixels[3, 0, 0, 0] ^= 1
            split = split_of(split.names, split.labels, pixels)
        elif change == "weight":
            net = build(seed=1)
        elif change == "size":
            net = build(size=40)
        elif change == "code":
            monkeypatch.setattr(provenance, "code", lambda: "another way to resize")
        elif change == "seed":
            views = Views(FLIP.policy, 1, None)
    with activations(tmp_path, net, dtype="float16" if change == "dtype" else "float32") as kept:
        features(kept, net.cut(0), split, views)
    assert len(list(tmp_path.glob("*/digests.json"))) == 2


def test_float16_takes_half_the_room(tmp_path):
    net = build()
    sizes = {}
    for dtype in ("float32", "float16"):
        with activations(tmp_path / dtype, net, dtype=dtype) as kept:
            full = features(kept, net.cut(0), images())
        (array,) = (tmp_path / dtype).glob("*/0.npy")
        sizes[dtype] = array.stat().st_size - 128
        assert full[0].dtype == np.float32
    assert sizes["float32"] == 2 * sizes["float16"]


def entries(folder):
    return {each.parent.name for each in folder.glob("*/digests.json")}


def test_the_entry_used_longest_ago_makes_room(tmp_path):
    net = build()
    one = 16 * 256 * 4 / 1e9
    names = []
    for seed in (0, 1, 0, 2):
        with activations(tmp_path, net, max_gigabytes=2.5 * one) as kept:
            features(kept, net.cut(0), images(16, seed))
        names.append(entries(tmp_path))
        time.sleep(0.01)  # entries are ordered by time
    assert [len(each) for each in names] == [1, 2, 2, 2]
    assert names[0] < names[1] == names[2]
    assert names[0] < names[3] != names[2]


def test_an_entry_in_use_makes_no_room_and_what_does_not_fit_is_computed_batch_by_batch(tmp_path, caplog):
    net = build()
    one = 16 * 256 * 4 / 1e9
    with activations(tmp_path, net, max_gigabytes=1.5 * one) as kept:
        first = features(kept, net.cut(0), images(16))
        used = entries(tmp_path)
        other = features(kept, net.cut(0), images(16, 1))
        assert entries(tmp_path) == used
    assert caplog.messages == ["Trains without cached features: cache full: all entries are in use by other processes."]
    with activations(tmp_path / "elsewhere", net) as kept:
        for seed, batches in enumerate((first, other)):
            for one, another in zip(features(kept, net.cut(0), images(16, seed)), batches, strict=True):
                np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize("room", [1.0, 1e-6])
def test_float16_gives_the_same_numbers_whatever_is_kept(tmp_path, room):
    net = build(depth=6)
    with activations(tmp_path / "alone", net, dtype="float16") as kept:
        alone = features(kept, net.cut(0), images())
    with activations(tmp_path / "sweep", net, [0, 6], dtype="float16", max_gigabytes=room) as kept:
        for one, other in zip(features(kept, net.cut(0), images()), alone, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("depth", "changes", "words"),
    [
        (0, {"keep": False}, "activations=off"),
        (0, {"max_gigabytes": 1e-6}, "activations.max_gigabytes=1e-06"),
        ("all", {}, "every layer trains"),
    ],
)
def test_where_nothing_can_be_kept_one_line_says_why(tmp_path, depth, changes, words, caplog):
    net = build(depth=depth)
    with activations(tmp_path, net, **changes) as kept:
        assert len(features(kept, net.cut(depth), images())) == 3
    (line,) = caplog.messages
    assert words in line
    assert not entries(tmp_path)


@pytest.mark.parametrize("size", [3, 12, 32])
def test_a_batch_of_any_size_changes_no_bit(tmp_path, size):
    net = build()
    cut = net.cut(0)
    with activations(tmp_path, net) as kept, activations(tmp_path, net, keep=False) as off:
        batches = [each.training_batches(cut, images(40), size, (0, 0), FLIP, False, range(2)) for each in (kept, off)]
        for (one, *_), (other, *_) in zip(*batches, strict=True):
            np.testing.assert_array_equal(one, other)


def resized(split, size):
    repeats = -(-size // 32)
    return split_of(split.names, split.labels, np.tile(split.images, (1, repeats, repeats, 1)))


@pytest.mark.parametrize("depth", ["all", 6, 0])
def test_each_file_is_decoded_once_for_all_views_and_the_numbers_stay(tmp_path, monkeypatch, depth):
    files, plain = [], images()
    for number, pixels in enumerate(plain.images):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    split, read = replace(plain, images=files), []
    real = decode.read
    monkeypatch.setattr(decode, "read", lambda source, *rest: read.append(source) or real(source, *rest))
    net = build(depth=depth)
    seen = {}
    for keep in (True, False):
        read.clear()
        with activations(tmp_path / "kept", net, [depth], keep=keep) as kept:
            seen[keep] = features(kept, net.cut(depth), split, FLIP, range(3))
        opened = [source for source in read if not isinstance(source, np.ndarray)]
        assert len(opened) == (24 if keep else 72)
    for one, other in zip(seen[True], seen[False], strict=True):
        np.testing.assert_array_equal(one, other)


def test_features_are_unmapped_at_the_end_of_the_context(tmp_path):
    maps, net = Path("/proc/self/maps"), build(depth=6)
    if not maps.exists():
        pytest.skip("only Linux lists what is mapped")
    with activations(tmp_path, net, [6]) as kept:
        batches = kept.training_batches(net.cut(6), images(), 8, (0, 0), PLAIN, False, range(1))
        assert len(list(batches)) == 3
        assert str(tmp_path) in maps.read_text()
    gc.collect()
    assert str(tmp_path) not in maps.read_text()


@pytest.mark.parametrize(("side", "rows"), [(32, 96), (96, 96), (160, 48), (224, 24), (331, 24), (600, 24)])
def test_large_images_are_computed_in_smaller_batches_all_multiples_of_24(side, rows):
    assert frozen_batch(3 * side**2) == rows


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 20, 30])
@pytest.mark.parametrize(("name", "size"), [(name, size) for name, size, _ in CUTS])
def test_training_on_kept_activations_equals_training_without_to_the_bit(tmp_path, name, size, depth):
    """Losses, metrics and final weights of two epochs, for each backbone, with dropout and a smaller last batch."""
    depth = min(depth, 8) if name == "VGG16" else depth
    train, validation = resized(images(20), size), resized(images(18, 1), size)
    results = []
    for keep in (True, False):
        net = build(name=name, size=size, depth=depth, head=DROPOUT)
        cut = net.cut(depth)
        each = Stage("finetune", 1, depth, depth, 0, 2, stage_settings(), "last")
        with activations(tmp_path, net, [depth], keep=keep) as kept:
            batches = Batches(
                partial(kept.training_batches, cut, train, 16, (0, 1), FLIP, False),
                partial(kept.evaluation_batches, cut, validation, 16),
                20,
                16,
            )
            trained = fit_stage(each, net, cut, batches, 0, created(tmp_path / str(keep)), [], "a")
        history = [
            {k: v for k, v in epoch.items() if k not in ("epoch_seconds", "waiting_seconds")}
            for epoch in trained.history
        ]
        results.append((history, net.model.get_weights()))
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["standard", "crop", "colour", "erasing", "trivial", "randaugment", "strong"])
def test_every_augmentation_gives_the_same_bits_with_and_without_kept_activations(tmp_path, name):
    views, results = Views(policy(name), 0, None, 3), []
    for keep in (True, False):
        net = build(depth=6)
        with activations(tmp_path, net, [6], keep=keep) as kept:
            batches = Batches(
                partial(kept.training_batches, net.cut(6), images(20), 8, (0, 1), views, False),
                partial(kept.evaluation_batches, net.cut(6), images(10, 1), 8),
                20,
                8,
            )
            stage = Stage("finetune", 1, 6, 6, 0, 2, stage_settings(), "last")
            folder = created(tmp_path / f"stage {keep}")
            trained = fit_stage(stage, net, net.cut(6), batches, 0, folder, [], "a")
        results.append([*([epoch["loss"], epoch["val_loss"]] for epoch in trained.history), *net.model.get_weights()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


COMPUTE = """
import sys
sys.path[:0] = sys.argv[2:4]
from thaw import runtime
runtime.start(2)
from networks import build, images
from test_features import activations, features
net = build()
with activations(__import__("pathlib").Path(sys.argv[1]), net) as kept:
    store = kept.store
    store._write = (lambda write: lambda *a: (print("computed", flush=True), write(*a)))(store._write)
    features(kept, net.cut(0), images(400))
"""


@pytest.mark.slow
def test_processes_that_need_the_same_activations_compute_them_once(tmp_path):
    program = [sys.executable, "-c", COMPUTE, str(tmp_path), str(ROOT / "src"), str(ROOT / "tests")]
    processes = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(said).count("computed") == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """50,000 generated JPEGs, of which what crosses takes more than 300 MB, in under 3 GB."""
    generator = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
    for number in range(50_000):
        pixels = generator.integers(0, 256, (12, 12, 3), np.uint8)
        folder = tmp_path / "pictures" / ("left", "right")[number % 2]
        Image.fromarray(pixels).resize((48, 48)).save(folder / f"{number}.jpg")
    network = [
        "backbone=mobilenetv2",
        "backbone.alpha=0.35",
        "weights=random",
        "unfreeze=20",
        "training.batch_size=128",
    ]
    pictures = ["dataset=folder", f"dataset.path={tmp_path / 'pictures'}", "dataset.image_size=96"]
    short = ["training.head.epochs=1", "training.finetune.epochs=1", "tracking.model=false", f"store={tmp_path / 's'}"]
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *network, *pictures, *short])
    peak = 0
    while process.poll() is None:  # what wait4 tells of a child counts what this process took before it began
        told = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(told[1]) * 1024 if told else 0)
        time.sleep(0.2)
    assert process.returncode == 0
    kept = sum(path.stat().st_size for path in (tmp_path / "s" / "activations").glob("*/*.npy"))
    assert kept > 3e8
    assert 0 < peak < 3e9
