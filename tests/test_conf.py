"""Every option of every group composes, and trains for one tiny epoch."""

import pytest
from conftest import ROOT, TINY
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as some

GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir())
OPTIONS = [f"{path.parent.name}={path.stem}" for path in sorted((ROOT / "conf").glob("*/*.yaml"))]
LAUNCHERS = [f"hydra/launcher={path.stem}" for path in sorted((ROOT / "conf/hydra/launcher").glob("*.yaml"))]
NEEDED = {
    "backbone=keras": ["backbone.name=DenseNet121"],
    "dataset=folder": ["dataset.path={pictures}"],
    "dataset=table": ["dataset.path={table}"],
    "dataset=tfds": ["dataset.name=tf_flowers"],
    "weights=file": ["weights.path={weights}"],
    "recipe=bit": ["training.finetune.steps=null"],
    "training=automm": ["unfreeze=1block"],
    "training=bit": ["training.finetune.steps=null", "unfreeze=1block"],
}
DEEP = (
    "backbone",
    "recipe=automm",
    "recipe=bit",
    "training=automm",
    "training=bit",
)  # begin with options that do not train the head alone
ELSEWHERE = ["weights=imagenet", "training=gradual"]
ELSEWHERE += [f"dataset={name}" for name in ("tfds", "flowers", "food10", "food10_10", "food10_1")]


def test_the_groups_are_those_of_the_design():
    expected = [
        "activations",
        "augmentation",
        "backbone",
        "dataset",
        "debug",
        "finish",
        "head",
        "hydra",
        "loss",
        "optimizer",
        "recipe",
        "regularisation",
        "resolution",
        "schedule",
        "tracking",
        "training",
        "weights",
    ]
    assert expected == GROUPS
    assert len(OPTIONS) >= 21


@pytest.mark.parametrize("option", OPTIONS + LAUNCHERS)
def test_every_option_composes(composed, option):
    places = {"pictures": "/pictures", "weights": "/weights.h5", "table": "/labels.csv"}
    overrides = [each.format(**places) for each in NEEDED.get(option, [])]
    assert composed(option, *overrides).backbone.name


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml")))
@pytest.mark.parametrize(
    "given", ["augmentation=none", "head=linear", "optimizer=adam", "schedule=constant", "training=staged"]
)
def test_a_group_that_is_given_wins_over_the_recipe(composed, recipe, given):
    group = given.partition("=")[0]
    wanted, found = composed(given, "unfreeze=3"), composed(f"recipe={recipe}", given, "unfreeze=3")
    assert getattr(found, group) == getattr(wanted, group)


@pytest.mark.slow
@pytest.mark.parametrize("option", [each for each in OPTIONS if each not in ELSEWHERE])
def test_every_option_trains_for_one_tiny_epoch(command, pictures, tmp_path, option):
    """Each on the tiny network, but backbones as they are; what needs a network has its test elsewhere."""
    overrides = [each for each in TINY if not (option.startswith("backbone") and each.startswith("backbone"))]
    if option.startswith("backbone"):
        overrides += ["dataset.image_size=75", "dataset.images_per_class=1", "training.batch_size=2"]
    folder = pictures({"a": 8, "b": 8}) if option.startswith("dataset") else None
    table = tmp_path / "labels.csv"
    table.write_text("file,class\n" + "".join(f"pictures/{c}/{n:03d}.png,{c}\n" for c in "ab" for n in range(8)))
    weights = _weights(tmp_path) if option == "weights=file" else None
    needed = [each.format(pictures=folder, weights=weights, table=table) for each in NEEDED.get(option, [])]
    depth, last = ("3", "finetune 1/1") if option.startswith(DEEP) else ("0", "head 1/1")
    flag = ["-m"] if option == "finish=soup" else []
    status, out, err = command(*flag, *overrides, option, *needed, f"unfreeze={depth}")
    assert status == 0, err
    assert " · test 0." in out or " · test 1." in out
    assert last in out


def _weights(folder):
    import keras

    network = keras.applications.MobileNet(include_top=False, alpha=0.25, input_shape=(32, 32, 3), weights=None)
    network.save_weights(folder / "mobilenet.weights.h5")
    return folder / "mobilenet.weights.h5"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes_and_says_what_it_is(composed, path):
    name = path.relative_to(ROOT / "experiments").with_suffix("").as_posix()
    assert composed(f"experiment={name}").question
    head = path.read_text().splitlines()[:4]
    for line, word in zip(head, ("Question:", "Command:", "Time:", "Result:"), strict=True):
        assert line.startswith(f"# {word}")
    assert f"experiment={name}" in head[1]


CHOICES = {  # what is combined at random: groups with their options, and keys with values from all over their ranges
    **{
        group: sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        for group in ("recipe", "augmentation", "loss", "regularisation", "optimizer", "schedule", "training", "finish")
    },
    "unfreeze": ["0", "3", "1block", "block1..block2", "all"],
    "reinit": ["0", "1block"],
    "head": ["linear", "dense128", "flatten512"],
    "fraction": ["100", "60"],
    "optimizer.ema": ["null", "0.9"],
    "optimizer.accumulate": ["1", "3"],
    "optimizer.clip_norm": ["null", "0.5"],
    "optimizer.layer_decay": ["1.0", "0.7"],
    "+optimizer.momentum": ["0.0", "0.9"],
    "schedule.warmup": ["0", "20%", "3"],
    "loss.label_smoothing": ["0.0", "0.2"],
    "training.class_weights": ["null", "balanced"],
    "training.sampling": ["null", "balanced"],
    "training.evaluate": ["best", "last"],
    "augmentation.views": ["null", "1"],
    "activations": ["disk", "off"],
    "find_rate": ["false", "true"],
}


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.dictionaries(some.sampled_from(sorted(CHOICES)), some.integers(0, 30), min_size=3, max_size=9))
def test_any_combination_trains_or_is_refused_in_one_sentence(command, drawn):
    chosen = [f"{key}={CHOICES[key][place % len(CHOICES[key])]}" for key, place in drawn.items()]
    short = ["training.head.epochs=1", "training.finetune.epochs=1", "training.finetune.steps=null", "rerun=true"]
    status, out, err = command(*TINY, *short, *chosen)
    event("trained" if status == 0 else "refused")
    if status == 0:
        assert " · test " in out or "training." in out, chosen
    else:
        assert len(err.strip().splitlines()) == 1, (chosen, err)
        assert "Traceback" not in err
        named = {key.removeprefix("+") for key in drawn}
        assert sum(any(part in err for part in (key, key.rpartition(".")[2])) for key in named) >= 1, (chosen, err)
