import pytest
from networks import planned

from thaw.config import schema
from thaw.errors import user_message
from thaw.modalities.images.modality import Images
from thaw.models.backbones import applications
from thaw.training import memory


@pytest.fixture(scope="module")
def backbone():
    return applications.build(
        schema.Backbone(name="MobileNet", alpha=0.25), schema.Weights(source="random"), Images(64), 0
    )


@pytest.fixture
def model(backbone):
    return backbone.model


@pytest.fixture
def estimated(backbone, composed):
    def run(*overrides, images=1000):
        config = composed("dataset.image_size=64", "training.batch_size=16", *overrides)
        stages = planned(config, backbone)
        return memory.estimate(
            backbone, config.head, config.training, stages, Images(64), 10, images, config.resolution.shares
        )

    return run


def test_the_estimate_counts_what_there_is(model, estimated):
    parts = estimated("unfreeze=all")
    head = 256 * 10
    trained = sum(weight.shape.num_elements() for weight in model.trainable_weights)
    assert parts["weights"] == 4 * (model.count_params() + head)
    assert parts["gradients and optimizer"] == 4 * 3 * (trained + head)
    assert parts["images"] == 4 * 96 * 64 * 64 * 3


def test_only_what_trains_counts(estimated):
    """Stages without epochs do not, nor does what an optimizer does not keep."""
    head = 4 * 256 * 10
    assert estimated("optimizer=sgd", "optimizer.momentum=0.0")["gradients and optimizer"] == head
    assert estimated("optimizer=sgd")["gradients and optimizer"] == 2 * head
    assert estimated("optimizer.ema=0.9", "optimizer.accumulate=2")["gradients and optimizer"] == 5 * head
    none = estimated("training.finetune.epochs=0", "unfreeze=all")
    assert none == estimated("unfreeze=0")


def test_outputs_are_as_large_as_the_precision_and_no_batch_is_larger_than_the_dataset(estimated):
    whole = estimated("unfreeze=all", "training.batch_size=512")["outputs of layers"]
    half = estimated("unfreeze=all", "training.batch_size=512", "training.precision=mixed_bfloat16")
    assert half["outputs of layers"] == whole / 2
    assert estimated("unfreeze=all", "training.batch_size=512", images=256)["outputs of layers"] == whole / 2


def test_stages_that_train_small_keep_less(estimated):
    large = ["unfreeze=all", "training.batch_size=512"]
    whole, small = (estimated(*large, f"resolution.shares=[{share}]")["outputs of layers"] for share in (1.0, 0.5))
    assert small == whole // 4


def test_without_a_frozen_part_nothing_is_computed_for_more_images_than_a_batch(estimated):
    parts = estimated("unfreeze=all", "training.head.epochs=0", "training.batch_size=8")
    assert parts["images"] == 4 * 8 * 64 * 64 * 3


def test_a_flattened_head_counts_every_place(model, estimated):
    parts = estimated("head.pooling=flatten", "head.hidden=100")
    assert parts["weights"] == 4 * (model.count_params() + 2 * 2 * 256 * 100 + 100 * 10)


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset.image_size=4096"],
        ["dataset.image_size=512", "training.batch_size=4096", "unfreeze=all"],
        ["dataset.image_size=512", "head.pooling=flatten", "head.hidden=65536"],
    ],
)
def test_what_cannot_fit_is_refused_with_the_sum_before_anything_is_computed(command, monkeypatch, overrides):
    monkeypatch.setattr(memory, "available", lambda: 4_000_000_000)
    tiny = ["backbone=keras", "backbone.name=MobileNet", "backbone.alpha=0.25", "weights=random"]
    status, out, err = command(*tiny, *overrides)
    assert status == 1
    assert "MobileNet on images of" in err
    assert "GB of memory (" in err
    assert "and this machine has 4.0 GB; reduce dataset.image_size" in err
    assert "statistics" not in out


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    whole = memory.available()
    (tmp_path / "limit").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "absent"))
    assert memory.available() >= whole
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "limit",))
    assert memory.available() == 1_000_000


def test_memory_that_ran_out_is_a_sentence():
    assert user_message(MemoryError()).startswith("Out of memory; reduce training.batch_size")
    assert user_message(RuntimeError("OOM when allocating tensor with shape[8]")).startswith("Out of memory")
