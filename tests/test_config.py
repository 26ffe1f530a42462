import contextlib
from typing import get_args

import hydra
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as values
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError

from thaw.config import compose, schema
from thaw.config.schema import Config
from thaw.config.validate import from_record, keys, validate
from thaw.config.values import Section
from thaw.errors import ThawError
from thaw.tracking import names

ANYTHING = values.recursive(
    values.one_of(
        values.none(), values.booleans(), values.integers(), values.floats(), values.text(),
        values.integers(-(10**30), 10**30),
        values.sampled_from(["all", "", " ", "~", "~nobody/x", "a://b", "\0", "-1"]),
    ),
    lambda inner: values.lists(inner, max_size=2) | values.dictionaries(values.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    """Every key of the configuration and its value."""
    compose.register()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("config"), resolve=True)


@settings(max_examples=1500, deadline=None)
@given(values.data())
def test_any_value_of_any_key_is_taken_or_refused_in_one_sentence(whole, data):
    key = data.draw(values.sampled_from(keys(whole)))
    value = data.draw(ANYTHING)
    changed = OmegaConf.create(whole)
    said = ""
    try:
        with contextlib.suppress(GrammarParseError):  # `${`, which Hydra refuses before
            OmegaConf.update(changed, key, value, merge=False)
        assert isinstance(validate(changed), Config)
    except ThawError as refusal:
        said = str(refusal)
    assert "\n" not in said
    assert len(said) < 1500


def numbers(section, prefix=""):
    """The keys of the schema that take numbers."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from numbers(field.annotation, f"{prefix}{name}.")
        elif {int, float} & set(kinds(field.annotation)):
            yield f"{prefix}{name}"


def kinds(annotation):
    """The types that an annotation is made of."""
    inner = get_args(annotation)
    return [annotation] if not inner else [kind for each in inner for kind in kinds(each)]


def test_every_number_has_an_upper_end(whole):
    keys = list(numbers(Config))
    assert len(keys) > 25
    for key in keys:
        for value in (10**30, 1e300, float("inf"), float("nan")):
            changed = OmegaConf.create(whole)
            OmegaConf.update(changed, key, value)
            with pytest.raises(ThawError, match=f"{key}="):
                validate(changed)


@pytest.mark.parametrize(("override", "value"), [("0", 0), ("20", 20), ("137", 137), ("all", "all")])
def test_any_depth_is_taken(composed, override, value):
    assert composed(f"unfreeze={override}").unfreeze == value


@pytest.mark.parametrize(("override", "value"), [("1", 1), ("2.5", 2.5), ("100", 100)])
def test_any_fraction_is_taken_and_holds_for_both_stages(composed, override, value):
    config = composed(f"fraction={override}")
    assert config.fraction == config.training.head.fraction == config.training.finetune.fraction == value


def test_a_stage_may_have_a_fraction_of_its_own(composed):
    config = composed("fraction=100", "training.head.fraction=10")
    assert (config.training.head.fraction, config.training.finetune.fraction) == (10, 100)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("unfreeze=-1", ["unfreeze=-1", "0 up", "or all"]),
        ("unfreeze=most", ["unfreeze=most", "or all"]),
        ("unfreeze=2.5", ["unfreeze=2.5", "or all"]),
        ("unfreeze=block2", ["unfreeze=block2", "such as block2..block4"]),
        ("training.finetune.unfreeze=block1..block2", ["training.finetune.unfreeze=block1..block2", "2blocks, or all"]),
        ("reinit=2", ["reinit=2 is not allowed; give a number of blocks such as 1block, or 0"]),
        ("fraction=0", ["fraction=0 is not allowed; give a percentage above 0 and up to 100"]),
        ("training.head.fraction=101", ["training.head.fraction=101", "up to 100"]),
        ("training.head.epochs=-2", ["training.head.epochs=-2"]),
        ("training.head.epochs=2.5", ["training.head.epochs=2.5", "integer"]),
        ("training.head.learning_rate=fast", ["training.head.learning_rate=fast", "number"]),
        ("optimizer.name=adm", ["optimizer.name=adm", "'adam'"]),
        ("optimizer.ema=1", ["optimizer.ema=1", "less than 1"]),
        ("+optimizer.momentum=0.9", ["optimizer.momentum is a setting of optimizer=sgd, received optimizer=adam"]),
        ("+optimizer.weight_decay=0.1", ["optimizer.weight_decay=0.1 needs another optimizer; give optimizer=adamw"]),
        ("training.evaluate=middle", ["training.evaluate=middle", "'best', 'last_stage' or 'last'"]),
        ("+training.head.epoch=3", ["training.head.epoch", "did you mean training.head.epochs?"]),
        ("dataset.image_size=16", ["EfficientNetB0", "32 px", "dataset.image_size=16"]),
        (
            "training.stages=[finetune]",
            ["unfreeze=0 trains the head alone, and no stage of training.stages=[finetune] does"],
        ),
        ("training.head.epochs=0", ["no stage has an epoch", "training.head.epochs"]),
        ("tracking.model=perhaps", ["tracking.model=perhaps"]),
        ("tracking.register_as=a/b", ["tracking.register_as=a/b"]),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(composed, override, words):
    with pytest.raises(ThawError) as refusal:
        composed(override)
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [(["backbone=keras"], "backbone.name"), (["dataset=folder"], "dataset.path"), (["weights=file"], "weights.path")],
)
def test_a_value_that_must_be_given_is_asked_for(composed, overrides, key):
    with pytest.raises(ThawError, match=f"{key}=\\.\\.\\."):
        composed(*overrides)


@pytest.mark.parametrize("key", ["store", "dataset.path", "weights.path"])
def test_the_home_folder_of_nobody_is_refused(composed, key):
    with pytest.raises(
        ThawError, match=f"{key}=~nobody-at-all/x is not allowed: there is no such home folder; give the whole"
    ):
        composed("weights=file", "weights.path=/w.h5", "dataset=folder", "dataset.path=/x", f"{key}='~nobody-at-all/x'")


def test_digits_bring_weights_that_need_no_network_and_other_datasets_do_not(composed):
    assert composed().weights.source == "auto"
    assert composed("weights=random").weights.source == "random"
    assert composed("dataset=folder", "dataset.path=/pictures").weights.source == "imagenet"


def test_an_image_size_given_beats_the_backbone(composed):
    assert composed("dataset=folder", "dataset.path=/pictures").image_size == 224
    assert composed("dataset=folder", "dataset.path=/pictures", "dataset.image_size=96").image_size == 96
    assert composed("dataset=folder", "dataset.path=/a/pets").dataset_name == "pets"


def test_the_configuration_does_not_change_once_built(composed):
    with pytest.raises(ValueError, match="frozen"):
        composed().seed = 1


def test_the_schema_has_the_defaults_of_conf(composed):
    """But for the fraction of each stage: null means that of the run, which conf/ interpolates."""
    assert composed("training.head.fraction=null", "training.finetune.fraction=null") == Config()
    assert composed("fraction=10").training.head.fraction == 10


def test_stages_are_a_list_with_a_section_each(composed):
    config = composed("training=gradual", "training.finetune.epochs=7", "training.block2.learning_rate=5e-5")
    assert config.training.stages == ["head", "block1", "block2", "block3"]
    sections = [config.training.section(name) for name in config.training.stages]
    assert [each.unfreeze for each in sections] == [0, "1block", "2blocks", "3blocks"]
    assert [each.epochs for each in sections] == [5, 7, 7, 7]
    assert [each.learning_rate for each in sections] == [1e-3, 1e-4, 5e-5, 1e-4]


def test_debugging_shortens_every_stage(composed):
    config = composed("training=gradual", "debug=fast")
    assert {config.training.section(name).epochs for name in config.training.stages} == {1}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stages=[head,finetun]", ["names finetun, which has no section; did you mean finetune?"]),
        ("training.stages=[head,head]", ["names a stage twice"]),
        ("training.stages=[]", ["training.stages=[]"]),
        ("+training.batchsize=3", ["training.batchsize is not a key of the configuration; did you mean batch_size?"]),
        ("+training.more.epoch=3", ["training.more.epoch is not a key"]),
        ("unfreeze=0blocks", ["unfreeze=0blocks is not allowed; give a number of layers", "such as 2blocks, or all"]),
        ("training.head.unfreeze=deep", ["training.head.unfreeze=deep is not allowed"]),
    ],
)
def test_a_wrong_stage_is_refused_in_one_sentence(composed, override, words):
    with pytest.raises(ThawError) as refusal:
        composed(override)
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_record_of_another_version_is_read():
    old = {
        "seed": 3,
        "gone": {"for": "good"},
        "dataset": {"source": "folder", "name": None, "path": "/p", "image_size": 96, "max_megapixels": 50.0, "old": 1},
        "training": {
            "batch_size": 16,
            "retired": 2,
            "head": {"epochs": 2, "beta": 1},
            "finetune": {"learning_rate": "fast"},
        },
    }
    config = from_record(old)
    assert (config.seed, config.dataset.max_megapixels, config.dataset.name) == (3, 50.0, None)
    assert (config.training.batch_size, config.training.head.epochs) == (16, 2)
    assert config.training.head.unfreeze == 0
    assert config.training.finetune.learning_rate == schema.Stage().learning_rate


def test_no_stage_takes_the_name_of_a_tag(composed):
    """Else the signature of a stage `kind` would be recorded in place of what kind of run it is."""
    constants = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)]
    tags = {value for value in constants if value.startswith("thaw.")}
    assert {names.stage_tag(each) for each in schema.RESERVED} == tags
    with pytest.raises(ThawError, match="training.stages names kind, which MLflow's tags use otherwise"):
        composed("training.stages=[head,kind]", "+training.kind.epochs=1")
