"""Comparisons of made-up records: no training is needed to know what they must say."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from thaw import comparison, figures, page, report, tracking
from thaw.errors import ThawError

IMAGES = 200
FOLDS = {"with.dataset.folds": "3"}


@pytest.fixture
def store(tmp_path):
    return tracking.connect(None, str(tmp_path / "mlruns"))


@pytest.fixture
def record(store, tmp_path):
    """Record a run that is right on `right` of its test images, the first of them."""

    def make(right=150, images="split", status="FINISHED", experiment="pets", metrics=None, tags=None, **params):
        client, number = store.client, store.experiment(experiment)
        run = client.create_run(number, run_name=" ".join(params.values()), tags={"thaw.kind": "run", **(tags or {})})
        for key, value in {"seed": "0", "images.test": str(IMAGES), **params}.items():
            client.log_param(run.info.run_id, key, value)
        values = {"test_accuracy": right / IMAGES, "training_seconds": 10.0 + right, "trainable_parameters": 1000}
        for key, value in (values if metrics is None else metrics).items():
            client.log_metric(run.info.run_id, key, value)
        for epoch in range(4):
            for key, value in {"val_loss": 1 / (epoch + 1), "val_accuracy": epoch / 4, "stage": epoch // 2}.items():
                client.log_metric(run.info.run_id, key, value, step=epoch)
        from mlflow.entities import Dataset, DatasetInput

        client.log_inputs(run.info.run_id, [DatasetInput(Dataset("pets", images, "local", "{}"), [])])
        path = tmp_path / "predictions.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "true", "predicted", "cat", "dog"])
            for number in range(IMAGES):
                guess = "cat" if number < right else "dog"
                writer.writerow([f"{images}/{number}", "cat", guess, 0.5, 0.5])
        client.log_artifact(run.info.run_id, str(path))
        client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    return make


def compared(store, experiment="pets", metric="test_accuracy", by=(), runs=()):
    return comparison.compare(store, experiment, metric, list(by), list(runs))


def test_the_best_is_first_and_only_what_varies_is_shown(store, record):
    for right, depth in ((120, "0"), (180, "30"), (170, "20")):
        record(right, backbone="vgg16", unfreeze=depth)
    found = compared(store)
    assert found.varied == ["unfreeze"]
    assert [each.values["unfreeze"] for each in found.variants] == ["30", "20", "0"]
    assert [each.name for each in found.variants] == ["unfreeze=30", "unfreeze=20", "unfreeze=0"]


def test_one_seed_has_the_interval_of_its_images_and_several_that_of_their_mean(store, record):
    record(180, unfreeze="30")
    for seed, right in enumerate((100, 104, 108)):
        record(right, unfreeze="0", seed=str(seed))
    best, other = compared(store).variants
    assert (best.score.low, best.score.high) == (pytest.approx(0.8507, abs=1e-3), pytest.approx(0.9342, abs=1e-3))
    assert other.score.value == pytest.approx(0.52)
    assert other.score.high - other.score.value == pytest.approx(4.303 * 0.02 / 3**0.5, abs=1e-4)


def test_a_key_that_says_the_same_as_another_is_left_out(store, record):
    record(100, **{"backbone": "vgg16", "backbone.name": "VGG16", "image_size": "224", "head.dropout": "0.0"})
    record(110, **{"backbone": "xception", "backbone.name": "Xception", "image_size": "299", "head.dropout": "0.0"})
    record(120, **{"backbone": "xception", "backbone.name": "Xception", "image_size": "299", "head.dropout": "0.3"})
    assert compared(store).varied == ["backbone", "head.dropout"]


def test_a_clear_difference_is_called_one_and_a_small_one_is_not(store, record):
    record(180, unfreeze="30")
    record(178, unfreeze="20")
    record(100, unfreeze="0")
    small, *clear = compared(store).differences
    assert "unfreeze=30 and unfreeze=20 are not distinguishable (+1.0 points" in small.words
    assert small.p_value == 0.5
    for each in clear:
        assert "is better than unfreeze=0" in each.words
        assert "exact McNemar test on 200 images, p < 0.001" in each.words
    assert small.corrected == 0.5


def test_runs_tested_on_different_images_are_never_paired(store, record):
    record(180, images="one", unfreeze="30")
    record(100, images="other", unfreeze="0")
    found = compared(store)
    assert not found.differences
    assert "not tested on the same images: unfreeze=30 and unfreeze=0" in found.unpaired


def test_several_seeds_are_paired_by_seed(store, record):
    for seed, right in enumerate((100, 120, 140)):
        record(right, images=f"split {seed}", unfreeze="0", seed=str(seed))
        record(right + 9 + seed, images=f"split {seed}", unfreeze="30", seed=str(seed))
    (difference,) = compared(store).differences
    assert "paired t-test over 3 seeds" in difference.words
    assert "unfreeze=30 is better than unfreeze=0" in difference.words


def test_folds_are_paired_as_seeds_are(store, record):
    for fold, right in enumerate((100, 120, 140)):
        record(right, images=f"fold {fold}", unfreeze="0", **{"with.dataset.fold": str(fold), **FOLDS})
        record(right + 9 + fold, images=f"fold {fold}", unfreeze="30", **{"with.dataset.fold": str(fold), **FOLDS})
    found = compared(store)
    assert found.varied == ["unfreeze"]
    assert "paired t-test over 3 folds" in found.differences[0].words


def test_runs_without_folds_are_not_mixed_with_those_of_a_cross_validation(store, record):
    for fold in ("None", "0", "1", "2"):
        record(150 + len(fold), images=f"fold {fold}", **{"with.dataset.fold": fold, **FOLDS})
    found = compared(store)
    assert found.varied == ["dataset.folds"]
    assert sorted(len(each.runs) for each in found.variants) == [1, 3]


def test_runs_that_a_variant_leaves_open_are_paired_by_their_mean_over_seeds(store, record):
    for seed in "01":
        for backbone, gain in (("vgg16", 0), ("xception", 20)):
            for depth, right in (("0", 100), ("30", 140)):
                record(right + gain + int(seed) * int(depth), backbone=backbone, unfreeze=depth, seed=seed)
    found = compared(store, by=["unfreeze"])
    assert found.left_open == ["backbone"]
    assert "paired t-test over 2 seeds, p" in found.differences[0].words
    assert found.differences[0].by.value == pytest.approx((40 + 70) / 2 / IMAGES)


def test_runs_of_one_seed_that_differ_in_what_is_left_open_have_a_mean_and_nothing_more(store, record):
    for backbone, gain in (("vgg16", 0), ("xception", 20)):
        for depth, right in (("0", 100), ("30", 140)):
            record(right + gain, backbone=backbone, unfreeze=depth)
    found = compared(store, by=["unfreeze"])
    assert [each.score.low == each.score.high == each.score.value for each in found.variants] == [True, True]
    assert not found.differences
    told = report.sentences(found)
    assert "Not tested on the same images with the same backbone: unfreeze=30 and unfreeze=0." in told
    assert "Means over backbone have no interval; name it with --by as well." in told


def test_runs_that_differ_in_what_is_left_open_are_never_paired(store, record):
    for seed, backbone in (("0", "vgg16"), ("1", "xception")):
        record(100, backbone=backbone, unfreeze="0", seed=seed)
    for seed, backbone in (("0", "xception"), ("1", "vgg16")):
        record(140, backbone=backbone, unfreeze="30", seed=seed)
    (difference,) = compared(store, by=["unfreeze"]).differences
    assert "exact McNemar test on 200 images of one run each" in difference.words


def test_the_one_that_is_better_on_the_seeds_of_both_is_called_so_whatever_the_order(store, record):
    for seed, right in enumerate((100, 101, 190, 190, 190)):
        record(right, images=f"split {seed}", unfreeze="10", seed=str(seed))
    for seed, right in enumerate((130, 132)):
        record(right, images=f"split {seed}", unfreeze="20", seed=str(seed))
    found = compared(store)
    assert found.variants[0].name == "unfreeze=10"
    (difference,) = found.differences
    assert difference.words.startswith("unfreeze=20 is better than unfreeze=10 (+15.")
    assert "paired t-test over 2 seeds that both have" in difference.words


def test_where_a_variant_holds_both_only_folds_are_paired_as_folds(store, record):
    for depth, gain in (("0", 0), ("30", 9)):
        for fold in ("None", "0", "1", "2"):
            images = f"fold {fold}"
            right = 100 + gain * (1 + (fold == "1"))
            record(right, images=images, unfreeze=depth, **{"with.dataset.fold": fold, **FOLDS})
    (difference,) = compared(store, by=["unfreeze"]).differences
    assert "paired t-test over 3 folds, corrected" in difference.words


def test_one_seed_in_several_places_is_one_seed(store, record):
    for depth, gain in (("0", 0), ("30", 9)):
        for images in ("one", "other"):
            record(100 + gain, images=images, unfreeze=depth)
    (difference,) = compared(store, by=["unfreeze"]).differences
    assert "exact McNemar test" in difference.words


def test_an_interval_of_accuracies_stays_among_them(store, record):
    for seed, right in enumerate((60, 199, 198)):
        record(right, seed=str(seed))
    (variant,) = compared(store).variants
    assert (variant.score.low, variant.score.high) == (0.0, 1.0)


def test_other_choices_with_the_same_result_are_shown_beside_each_other(store, record):
    for percent in ("1", "10"):
        record(150, fraction=percent, tags={"thaw.head": "a"})
    assert [each.values["fraction"] for each in compared(store).variants] == ["10", "1"]


def test_a_result_that_was_recorded_twice_counts_once(store, record):
    for _ in range(2):
        record(180, unfreeze="30", tags={"thaw.head": "a", "thaw.finetune": "b"})
    record(100, unfreeze="0", tags={"thaw.head": "a"})
    assert [len(each.runs) for each in compared(store).variants] == [1, 1]


def test_what_did_not_finish_is_counted_and_named(store, record):
    record(180, unfreeze="30")
    record(0, unfreeze="20", status="FAILED", metrics={})
    record(0, unfreeze="50", status="KILLED", metrics={})
    said = report.sentences(compared(store))
    assert "Left out, FAILED: 1 (20)." in said
    assert "Left out, KILLED: 1 (50)." in said


def test_other_keys_and_chosen_runs(store, record):
    first = record(180, backbone="vgg16", unfreeze="30")
    second = record(170, backbone="vgg16", unfreeze="20")
    record(160, backbone="xception", unfreeze="20")
    assert [each.name for each in compared(store, by=["backbone"]).variants] == ["vgg16", "xception"]
    assert len(compared(store, runs=[first, second]).variants) == 2


def test_a_loss_that_is_no_number_comes_last(store, record):
    for depth, loss in (("0", float("nan")), ("20", 1.0), ("30", float("nan")), ("50", 0.5)):
        record(metrics={"test_loss": loss}, unfreeze=depth)
    found = compared(store, metric="test_loss")
    assert [each.values["unfreeze"] for each in found.variants][:2] == ["50", "20"]
    assert [line[1] for line in report.rows(found)[1]] == ["0.500", "1.000", "nan", "nan"]


def test_a_loss_is_better_when_it_is_lower(store, record):
    record(metrics={"test_loss": 2.0}, unfreeze="0")
    record(metrics={"test_loss": 1.0}, unfreeze="30")
    found = compared(store, metric="test_loss")
    assert found.variants[0].values == {"unfreeze": "30"}
    assert not found.differences


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"experiment": "petz"}, r"no experiment petz; recorded are .*did you mean pets\?"),
        ({"metric": "test_acuracy"}, r"has recorded the metric test_acuracy; did you mean test_accuracy\?"),
        ({"by": ["backbon"]}, r"no parameter backbon; did you mean backbone\?"),
        ({"runs": ["0123"]}, "has no run 0123; give ids as MLflow shows them"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(store, record, arguments, words):
    record(180, backbone="vgg16")
    with pytest.raises(ThawError, match=words):
        compared(store, **arguments)


def test_nothing_recorded_says_what_to_do(store, record):
    with pytest.raises(ThawError, match="Nothing is recorded here yet"):
        compared(store, experiment=None)
    record(0, status="FAILED", metrics={}, backbone="vgg16")
    with pytest.raises(ThawError, match="no finished run; train some first"):
        compared(store, experiment=None)


@pytest.fixture
def grid(record):
    for backbone, gain in (("effnetb0", 10), ("xception", 0)):
        for depth in ("0", "20", "all"):
            for percent in ("1", "10", "100"):
                record(100 + gain + 3 * len(depth) + len(percent) * 10, backbone=backbone, unfreeze=depth,
                       fraction=percent)  # fmt: skip


def test_the_table_fits_a_terminal_and_has_every_variant(store, grid):
    console = Console(width=80, record=True, file=io.StringIO(), soft_wrap=True)
    found = compared(store)
    report.tell(found, console)
    told = console.export_text()
    assert told.count("effnetb0") >= 9
    assert "…" not in told
    for words in ("Test accuracy (95 %)", "0.745", "seconds", "not distinguishable"):
        assert words in told


def test_what_is_in_brackets_is_no_markup(store, record):
    record(180, unfreeze="[bold]30[/bold]", tags={"thaw.question": "x"})
    record(170, unfreeze="[red]")
    console = Console(width=80, record=True, file=io.StringIO(), soft_wrap=True)
    report.tell(dataclasses.replace(compared(store), question="Is it [really] so?"), console)
    told = console.export_text()
    assert "Is it [really] so?" in told
    assert "[bold]30[/bold]" in told
    assert "[red]" in told


def test_curves_of_all_seeds_and_every_line_are_drawn(store, record, tmp_path, monkeypatch):
    for seed in "012":
        record(180 + int(seed), backbone="net0", unfreeze="0", seed=seed)
    for number in range(9):
        record(100 + number, backbone=f"net{number}", unfreeze="20")
    drawn = {}
    for name in ("compared_curves", "against"):
        monkeypatch.setattr(figures, name, lambda lines, *_, name=name, **__: drawn.update({name: lines}))
    list(page.charts(compared(store), store.client, tmp_path))
    assert sorted(map(len, drawn["compared_curves"].values())) == [1] * 9 + [3]
    assert next(iter(drawn["against"])) == "net0"
    assert len(drawn["against"]) == 9


def test_charts_bear_long_names_of_classes_and_fractions_close_together(tmp_path):
    names = tuple(f"a_rather_long_name_of_a_class_{number}" for number in range(10))
    figures.confusions({f"variant {n} of several words": np.eye(10) for n in range(3)}, names, tmp_path / "a.png")
    lines = {f"net{n}": dict.fromkeys(("20", "50", "100"), (0.5 + n / 50, 0.4, 0.9)) for n in range(10)}
    figures.against(lines, ["20", "50", "100"], "Share (%)", "Accuracy", tmp_path / "b.png", logarithmic=True)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("a.png", "b.png"))


def test_the_page_is_whole_and_asks_for_nothing_from_outside(store, grid, tmp_path):
    found = compared(store)
    written = page.write(found, store, tmp_path / "out")
    text = written.read_text()
    assert text.count("<img") == text.count("data:image/png;base64,") >= 6
    for outside in ('src="http', "<link", "@import", "url("):
        assert outside not in text
    assert text.count("<tr>") == 1 + len(found.variants)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"learning_curves.png", "unfreeze.png", "fraction.png", "cost.png", "confusion.png"} <= names
    assert "backbone_unfreeze.png" in names


def test_names_from_outside_are_only_text_in_the_page(store, record, tmp_path):
    record(180, backbone="<script>alert(1)</script>")
    record(170, backbone="xception")
    assert "<script>alert" not in page.write(compared(store), store, tmp_path / "out").read_text()


def test_the_note_has_the_table_the_charts_and_the_command(store, record, tmp_path):
    for depth in ("0", "20"):
        record(180, backbone="vgg16", unfreeze=depth, tags={"thaw.command": "python train.py -m unfreeze=0,20"})
    note = page.note(compared(store), store, tmp_path)
    text = note.read_text()
    assert text.startswith("# pets\n")
    assert "| unfreeze | Test accuracy (95 %) |" in text
    assert "The same in all runs: backbone vgg16." in text
    assert text.count("python train.py -m unfreeze=0,20") == 1
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.rpartition("(")[2].rstrip(")")).stat().st_size < 300_000


def test_the_page_is_recorded_with_the_sweep(store, record, tmp_path):
    parent = store.client.create_run(store.experiment("pets"), tags={"thaw.kind": "sweep", "thaw.question": "Why?"})
    for depth in ("0", "20"):
        record(180, unfreeze=depth, tags={"mlflow.parentRunId": parent.info.run_id})
    found = compared(store)
    assert found.question == "Why?"
    page.write(found, store, tmp_path / "out")
    assert [each.path for each in store.client.list_artifacts(parent.info.run_id)] == ["report.html"]


def test_the_mean_of_a_pair_of_values_is_in_the_grid(store, record):
    for depth, percent, right in (("0", "1", 100), ("0", "100", 150), ("20", "100", 200)):
        record(right, unfreeze=depth, fraction=percent)
    grid = page._grid(compared(store), "unfreeze", "fraction")
    np.testing.assert_array_equal(grid, [[0.5, 0.75], [np.nan, 1.0]])
