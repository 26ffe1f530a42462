import hashlib
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY
from networks import build as build_network
from networks import planned, split_of

from thaw import provenance
from thaw.data.dataset import load_dataset
from thaw.data.splits import fraction
from thaw.modalities.images.modality import Images
from thaw.runs import signature


@cache
def backbone():
    return build_network().backbone


@pytest.fixture
def configured(composed, tmp_path):
    return lambda *overrides: composed(*TINY, f"store={tmp_path / 'store'}", "unfreeze=3", *overrides)


def signed(configured, *overrides, weights="w", before="", changed=None, of="stage", devices="1 CPU"):
    config = configured(*overrides)
    dataset = load_dataset(config.dataset, config.seed, Path(config.store))
    dataset = changed(dataset) if changed else dataset
    if of == "run":
        settings = signature.relevant(config)
        return signature.of_run(settings, dataset, weights, config.weights.path, Path(config.store), devices)
    head, _ = planned(config, backbone())
    network = SimpleNamespace(
        backbone=SimpleNamespace(digest=weights, model=SimpleNamespace(name=config.backbone.name)),
        batch_norm="frozen",
        modality=Images.of(config.dataset, config.backbone),
    )
    train = fraction(dataset.train, head.settings.fraction, config.seed)
    settings = signature.stage_settings(
        config.training, config.head, config.augmentation, config.activations.dtype, config.seed, devices
    )
    return signature.of_stage(settings, head, network, dataset, train, before)


def with_one_changed(dataset, split_name, what):
    split = getattr(dataset, split_name)
    pixels, labels = split.images.copy(), split.labels.copy()
    (pixels if what == "pixel" else labels)[0] ^= 1
    return replace(dataset, **{split_name: split_of(split.names, labels, pixels)})


def pixel(dataset):
    return with_one_changed(dataset, "train", "pixel")


def label(dataset):
    return with_one_changed(dataset, "validation", "label")


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": ["training.head.learning_rate=2e-3"]},
        {"overrides": ["training.head.epochs=2"]},
        {"overrides": ["training.batch_size=16"]},
        {"overrides": ["training.evaluate=last"]},
        {"overrides": ["seed=1"]},
        {"overrides": ["fraction=50"]},
        {"overrides": ["augmentation=light"]},
        {"overrides": ["augmentation=standard", "augmentation.zoom=0.1"]},
        {"overrides": ["head.dropout=0.1"]},
        {"overrides": ["dataset.image_size=40"]},
        {"overrides": ["activations.dtype=float16"]},
        {"weights": "other"},
        {"devices": "2 GPU"},
        {"before": "other"},
        {"changed": pixel},
        {"changed": label},
    ],
)
def test_what_a_result_depends_on_changes_its_signature(configured, change):
    named = dict(change)
    assert signed(configured, *named.pop("overrides", []), **named) != signed(configured)


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracking.uri=http://127.0.0.1:1", "tracking.experiment=other"],
        ["threads=1"],
        ["question=why"],
        ["unfreeze=20", "training.finetune.learning_rate=1"],
        ["activations=off"],
        ["weights=auto"],
        ["training.strategy=single"],  # what it comes to counts
    ],
)
def test_what_it_does_not_depend_on_leaves_it_alone(configured, overrides):
    assert signed(configured, *overrides) == signed(configured)


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": ["training.finetune.learning_rate=2e-3"]},
        {"overrides": ["unfreeze=4"]},
        {"overrides": ["seed=1"]},
        {"overrides": ["backbone.alpha=0.5"]},
        {"overrides": ["augmentation.zoom=0.1"]},
        {"overrides": ["activations.dtype=float16"]},
        {"weights": "imagenet"},
        {"changed": pixel},
        {"changed": label},
        {"changed": lambda dataset: with_one_changed(dataset, "test", "pixel")},
    ],
)
def test_the_signature_of_a_run_changes_with_its_result(configured, change):
    named = dict(change)
    assert signed(configured, *named.pop("overrides", []), of="run", **named) != signed(configured, of="run")


def test_how_a_run_is_done_is_no_part_of_its_signature(configured, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    ways = [
        "threads=1",
        "question=why",
        "activations=off",
        "rerun=true",
        "tracking.experiment=a",
        "tracking.model=true",
    ]
    assert signed(configured, *ways, of="run") == signed(configured, of="run")
    first, second = ["seed=3", "fraction=50"], ["fraction=50", "seed=3"]
    assert signed(configured, *first, of="run") == signed(configured, *second, of="run")


def test_a_file_of_weights_counts_by_its_content(configured, tmp_path):
    def of(name):
        return signed(configured, "weights=file", f"weights.path={tmp_path / name}", weights="file", of="run")

    for name, content in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).write_bytes(content)
    assert of("one") == of("same") != of("other")


def test_a_moved_folder_has_the_same_signature_and_another_picture_has_not(configured, pictures, tmp_path):
    def of(path):
        overrides = ["dataset=folder", f"dataset.path={path}", "weights=random", "dataset.name=pets"]
        return signed(configured, *overrides)

    root = pictures({"a": 8, "b": 8})
    first = of(root)
    moved = root.rename(tmp_path / "moved")
    assert of(moved) == first
    (moved / "a" / "000.png").write_bytes((moved / "a" / "001.png").read_bytes())
    assert of(moved) != first


VARIED = """
@decorated(1, *a, k=2.5, **b)
class Kind(Base):
    key: int = 0

    async def each(self, /, *, other: str | None = None) -> list[int]:
        return [x async for x in y if (z := f"{x!r:>{w}} %")]


match point:
    case {"x": [0, *_]} | None:
        pass
"""
SOURCE = """
def area(side):
    return side * side
"""


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (SOURCE.replace("return", "# why\n    return"), True),
        (SOURCE.replace("    return", '    """An area."""\n    return'), True),
        (SOURCE.replace("side * side", "(side\n        * side)"), True),
        (SOURCE.replace("side * side", "side * side * 1"), False),
        (SOURCE.replace("side * side", "side + side"), False),
    ],
)
def test_code_counts_and_its_looks_do_not(other, same):
    assert (provenance.meaning(other) == provenance.meaning(SOURCE)) == same


def test_a_docstring_in_place_of_another_changes_nothing():
    one, other = (f'def f():\n    """{words}"""\n' for words in ("One.", "Other."))
    assert provenance.meaning(one) == provenance.meaning(other)


def test_code_means_the_same_under_every_version_of_python():
    """Fields that later versions add, and that are empty, do not count; the digest is that of Python 3.11."""
    digest = hashlib.sha256(provenance.meaning(SOURCE + VARIED).encode()).hexdigest()
    assert digest == "abdf8032d90a7fa077ba0e6cee728847358b8bbbbeebfd067c1bb670239d3600"


def test_the_code_that_shapes_results_follows_from_imports():
    found = set(provenance.shaping_modules())
    assert found >= {
        "thaw.runs.train", "thaw.runtime", "thaw.training.fit", "thaw.training.losses", "thaw.training.optimizers",
        "thaw.training.callbacks", "thaw.array_store", "thaw.models.graph", "thaw.models.heads",
        "thaw.models.backbones.applications", "thaw.modalities.images.decode", "thaw.modalities.images.augment",
        "thaw.data.splits",
    }  # fmt: skip
    assert not [name for name in found if name.startswith(("thaw.tracking", "thaw.cli", "thaw.plots", "thaw.runs.re"))]


@pytest.mark.parametrize("what", ["code", "package"])
def test_another_version_of_the_code_or_of_a_package_gives_another_signature(configured, monkeypatch, what):
    before = [signed(configured, of=of) for of in ("run", "stage")]
    if what == "code":
        monkeypatch.setattr(provenance, "code", lambda: "other")
    else:
        monkeypatch.setattr(provenance, "version", lambda name: "0.0" if name == "pillow" else version(name))
    assert all(one != signed(configured, of=of) for one, of in zip(before, ("run", "stage"), strict=True))
