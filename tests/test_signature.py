from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY

from thaw import data, signature, stage


def signed(composed, *overrides, weights="w", before="", changed=None):
    config = composed(*TINY, "unfreeze=3", *overrides)
    dataset = data.load(config.dataset, config.seed)
    if changed:
        changed(dataset)
    head, _ = stage.plan(config.training, config.unfreeze)
    network = SimpleNamespace(backbone=SimpleNamespace(digest=weights), batch_norm="frozen")
    train = data.fraction(dataset.train, head.settings.fraction, config.seed)
    return signature.of_stage(head, config, network, dataset, train, before)


def pixel(dataset):
    dataset.train.images[0, 3, 3] ^= 1


def label(dataset):
    dataset.validation.labels[0] ^= 1


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
        {"before": "other"},
        {"changed": pixel},
        {"changed": label},
    ],
)
def test_what_a_result_depends_on_changes_its_signature(composed, change):
    named = dict(change)
    assert signed(composed, *named.pop("overrides", []), **named) != signed(composed)


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracking.uri=http://127.0.0.1:1", "tracking.experiment=other"],
        ["threads=1"],
        ["question=why"],
        ["store=/elsewhere"],
        ["unfreeze=20", "training.finetune.learning_rate=1"],
        ["activations=off"],
        ["weights=auto"],
    ],
)
def test_what_it_does_not_depend_on_leaves_it_alone(composed, overrides):
    assert signed(composed, *overrides) == signed(composed)


def test_a_moved_folder_has_the_same_signature_and_another_picture_has_not(composed, pictures, tmp_path):
    def of(path):
        overrides = ["dataset=folder", f"dataset.path={path}", "weights=random", "dataset.name=pets"]
        return signed(composed, *overrides)

    root = pictures({"a": 8, "b": 8})
    first = of(root)
    moved = root.rename(tmp_path / "moved")
    assert of(moved) == first
    (moved / "a" / "000.png").write_bytes((moved / "a" / "001.png").read_bytes())
    assert of(moved) != first


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
    assert (signature.meaning(other) == signature.meaning(SOURCE)) == same


def test_a_docstring_in_place_of_another_changes_nothing():
    one, other = (f'def f():\n    """{words}"""\n' for words in ("One.", "Other."))
    assert signature.meaning(one) == signature.meaning(other)


def test_the_code_of_training_is_part_of_it(monkeypatch, tmp_path):
    signature.code.cache_clear()
    before = signature.code()
    monkeypatch.setattr(signature, "SHAPING", signature.SHAPING[1:])
    signature.code.cache_clear()
    assert signature.code() != before
    signature.code.cache_clear()
    assert np.all([signature.code()])
