"""Comparisons of made-up records: no training is needed to know what they must say."""

import csv
import dataclasses
import io
import re
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
from rich.console import Console

from thaw import statistics
from thaw.analysis import comparison, differences
from thaw.analysis.charts import _histories, charts
from thaw.analysis.html import write_note, write_report
from thaw.analysis.text import _short, print_comparison, sentences, table_rows
from thaw.cli.compare import _worst
from thaw.errors import ThawError
from thaw.plots import comparison as plots
from thaw.plots import style
from thaw.plots.training import confusion_matrix
from thaw.serving import selection
from thaw.tracking.store import connect
from thaw.workspace import Workspace

IMAGES = 200
FOLDS = {"with.dataset.folds": "3"}


@pytest.fixture(autouse=True)
def figures_are_closed():
    yield
    plt.close("all")


@pytest.fixture
def store(tmp_path):
    return connect(None, str(Workspace(tmp_path / "mlruns").create().root))


@pytest.fixture
def record(store, tmp_path):
    """Record a run that is right on `right` of its test images, the first of them."""

    def make(right=150, images="split", status="FINISHED", experiment="pets", metrics=None, tags=None, **params):
        client, number = store.client, store.experiment(experiment)
        run = client.create_run(number, run_name=" ".join(params.values()), tags={"thaw.kind": "run", **(tags or {})})
        for key, value in {"seed": "0", "images.test": str(IMAGES), **params}.items():
            client.log_param(run.info.run_id, key, value)
        accuracy = right / IMAGES
        values = {
            "kept_val_accuracy": accuracy,
            "test_accuracy": accuracy,
            "training_seconds": 10.0 + right,
            "trainable_parameters": 1000,
        }
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


def compared(store, experiment="pets", metric="kept_val_accuracy", by=(), runs=(), against=None):
    return comparison.compare(store, experiment, metric, list(by), list(runs), against)


def test_the_best_is_first_and_only_what_varies_is_shown(store, record):
    for right, depth in ((120, "0"), (180, "30"), (170, "20")):
        record(right, backbone="vgg16", unfreeze=depth)
    found = compared(store)
    assert found.varied == ["unfreeze"]
    assert [each.values["unfreeze"] for each in found.variants] == ["30", "20", "0"]
    assert [each.name for each in found.variants] == ["unfreeze=30", "unfreeze=20", "unfreeze=0"]


def test_runs_from_before_there_were_schedules_had_a_constant_one(store, record):
    constant = {"schedule": "constant", "with.schedule.name": "constant", "with.schedule.warmup": "0"}
    record(150, unfreeze="0", seed="0")
    record(150, unfreeze="0", seed="1", **constant, **{"with.schedule.end": "0.0"})
    assert compared(store).varied == []
    cosine = {"schedule": "cosine", "with.schedule.name": "cosine", "with.schedule.warmup": "0"}
    record(160, unfreeze="0", seed="0", **cosine)
    assert compared(store).varied[0] == "schedule"


def test_what_a_recipe_determines_is_not_shown_beside_it(store, record):
    record(150, recipe="bit", optimizer="sgd", schedule="step", unfreeze="all")
    record(140, recipe="notebook", optimizer="adam", schedule="constant", unfreeze="0")
    assert compared(store).varied == ["recipe"]
    record(130, recipe="notebook", optimizer="adam", schedule="constant", unfreeze="20")
    assert compared(store).varied == ["recipe", "unfreeze"]


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
    assert "unfreeze=30 and unfreeze=20 are not distinguishable (+1.0 points" in small.summary
    assert small.p_value == 0.5
    for each in clear:
        assert "is better than unfreeze=0" in each.summary
        assert "exact McNemar test on 200 images, p < 0.001" in each.summary
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
    assert "bootstrap over 3 seeds and 600 images" in difference.summary
    assert "unfreeze=30 is better than unfreeze=0" in difference.summary


def test_folds_are_paired_as_seeds_are(store, record):
    for fold, right in enumerate((100, 120, 140)):
        record(right, images=f"fold {fold}", unfreeze="0", **{"with.dataset.fold": str(fold), **FOLDS})
        record(right + 9 + fold, images=f"fold {fold}", unfreeze="30", **{"with.dataset.fold": str(fold), **FOLDS})
    found = compared(store)
    assert found.varied == ["unfreeze"]
    assert "paired t-test over 3 folds" in found.differences[0].summary


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
    assert found.averaged_over == ["backbone"]
    assert "paired t-test over 2 seeds, p" in found.differences[0].summary
    assert found.differences[0].by.value == pytest.approx((40 + 70) / 2 / IMAGES)


def test_runs_of_one_seed_that_differ_in_what_is_averaged_over_have_a_mean_and_nothing_more(store, record):
    for backbone, gain in (("vgg16", 0), ("xception", 20)):
        for depth, right in (("0", 100), ("30", 140)):
            record(right + gain, backbone=backbone, unfreeze=depth)
    found = compared(store, by=["unfreeze"])
    assert [each.score.low == each.score.high == each.score.value for each in found.variants] == [True, True]
    assert not found.differences
    told = sentences(found)
    assert "Not tested on the same images with the same backbone: unfreeze=30 and unfreeze=0." in told
    assert "Rows average over backbone, so no interval is shown; add backbone to --by." in told


def test_runs_that_differ_in_what_is_averaged_over_are_never_paired(store, record):
    for seed, backbone in (("0", "vgg16"), ("1", "xception")):
        record(100, backbone=backbone, unfreeze="0", seed=seed)
    for seed, backbone in (("0", "xception"), ("1", "vgg16")):
        record(140, backbone=backbone, unfreeze="30", seed=seed)
    (difference,) = compared(store, by=["unfreeze"]).differences
    assert "exact McNemar test on 200 images of one run each" in difference.summary


def test_the_one_that_is_better_on_the_seeds_of_both_is_called_so_whatever_the_order(store, record):
    for seed, right in enumerate((100, 101, 190, 190, 190)):
        record(right, images=f"split {seed}", unfreeze="10", seed=str(seed))
    for seed, right in enumerate((130, 132)):
        record(right, images=f"split {seed}", unfreeze="20", seed=str(seed))
    found = compared(store)
    assert found.variants[0].name == "unfreeze=10"
    (difference,) = found.differences
    assert difference.summary.startswith("unfreeze=20 is better than unfreeze=10 (+15.")
    assert "bootstrap over 2 seeds that both have and 400 images" in difference.summary


def test_where_a_variant_holds_both_only_folds_are_paired_as_folds(store, record):
    for depth, gain in (("0", 0), ("30", 9)):
        for fold in ("None", "0", "1", "2"):
            images = f"fold {fold}"
            right = 100 + gain * (1 + (fold == "1"))
            record(right, images=images, unfreeze=depth, **{"with.dataset.fold": fold, **FOLDS})
    (difference,) = compared(store, by=["unfreeze"]).differences
    assert "paired t-test over 3 folds, corrected" in difference.summary


def test_one_seed_in_several_places_is_one_seed(store, record):
    for depth, gain in (("0", 0), ("30", 9)):
        for images in ("one", "other"):
            record(100 + gain, images=images, unfreeze=depth)
    (difference,) = compared(store, by=["unfreeze"]).differences
    assert "exact McNemar test" in difference.summary


def test_an_interval_of_accuracies_stays_among_them(store, record):
    for seed, right in enumerate((60, 199, 198)):
        record(right, seed=str(seed))
    (variant,) = compared(store).variants
    assert (variant.score.low, variant.score.high) == (0.0, 1.0)


def test_other_choices_with_the_same_result_are_shown_beside_each_other(store, record):
    for percent in ("1", "10"):
        record(150, fraction=percent, tags={"thaw.head": "a"})
    assert [each.values["fraction"] for each in compared(store).variants] == ["1", "10"]


def test_a_result_that_was_recorded_twice_counts_once(store, record):
    for _ in range(2):
        record(180, unfreeze="30", tags={"thaw.head": "a", "thaw.finetune": "b"})
    record(100, unfreeze="0", tags={"thaw.head": "a"})
    assert [len(each.runs) for each in compared(store).variants] == [1, 1]


def test_what_did_not_finish_is_counted_and_named(store, record):
    record(180, unfreeze="30")
    record(0, unfreeze="20", status="FAILED", metrics={})
    record(0, unfreeze="50", status="KILLED", metrics={})
    said = sentences(compared(store))
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
    assert [line[1] for line in table_rows(found)[1]] == ["0.500", "1.000", "nan", "nan"]


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
    print_comparison(found, console)
    told = console.export_text()
    assert told.count("effnetb0") >= 9
    assert "…" not in told
    for words in ("No gain shown from", "0.745", "training", "not distinguishable"):
        assert words in told


def test_what_is_in_brackets_is_no_markup(store, record):
    record(180, unfreeze="[bold]30[/bold]", tags={"thaw.question": "x"})
    record(170, unfreeze="[red]")
    console = Console(width=80, record=True, file=io.StringIO(), soft_wrap=True)
    print_comparison(dataclasses.replace(compared(store), question="Is it [really] so?"), console)
    told = console.export_text()
    assert "Is it [really] so?" in told
    assert "[bold]30[/bold]" in told
    assert "[red]" in told


def test_curves_of_all_seeds_and_every_group_are_drawn(store, record, monkeypatch):
    for seed in "012":
        record(180 + int(seed), backbone="net0", unfreeze="0", seed=seed)
    for number in range(9):
        record(100 + number, backbone=f"net{number}", unfreeze="20")
    curves, groups = [], []
    monkeypatch.setattr(plots, "learning_curves", lambda drawn, *_: curves.append([each.name for each in drawn]))
    monkeypatch.setattr(plots, "dots", lambda drawn, *_: groups.append([each.name for each in drawn]))
    list(charts(compared(store), store.client))
    assert curves[0] == ["0", "0", "0", "20"]  # of net0, for which both depths are there
    assert groups[0] == ["unfreeze=0", "unfreeze=20"]
    assert groups[1] == [f"net{number}" for number in range(9)]


def texts(figure):
    """All that a figure says; drawn, so that places are known."""
    import matplotlib.text

    figure.canvas.draw()
    return [each.get_text() for each in figure.findobj(matplotlib.text.Text) if each.get_text() and each.get_visible()]


def inside(figure):
    """Whether all that is drawn lies within the figure."""
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return box.x0 >= -0.02 and box.y0 >= -0.02 and box.x1 <= width + 0.02 and box.y1 <= height + 0.02


def history(head, rest):
    return [{"val_accuracy": value, "stage": 0} for value in head] + [
        {"val_accuracy": value, "stage": 1} for value in rest
    ]


def test_a_head_that_runs_share_is_drawn_once_in_gray_with_its_boundary_and_what_was_kept():
    head = [0.3, 0.4, 0.5]
    curves = [plots.Curve("0", history(head, []), 2), plots.Curve("20", history(head, [0.6, 0.7]), 4)]
    figure = plots.learning_curves(curves, ["0", "20"], "val_accuracy", "Validation accuracy")
    (axis,) = figure.axes
    gray = [line for line in axis.lines if line.get_color() == style.GRAY and len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in gray] == [head]
    assert [list(line.get_xdata()) for line in axis.lines if line.get_color() == style.GRAY and line not in gray] == [
        [3.5, 3.5]
    ]
    (tuned,) = (line for line in axis.lines if list(line.get_ydata()) == [0.5, 0.6, 0.7])
    assert list(tuned.get_xdata()) == [3, 4, 5]
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_fillstyle() == "none"]
    assert sorted(rings) == [(3, 0.5), (5, 0.7)]
    assert {"head, shared", "0", "20", "fine-tuning"} <= set(texts(figure))


def test_numbers_have_a_sequence_of_colors_and_names_have_distinct_ones():
    from matplotlib.colors import to_rgb

    def light(color):
        return sum(to_rgb(color))

    numbers = [light(each) for each in style.colors(["0", "5", "20", "all"]).values()]
    assert numbers == sorted(numbers)
    assert list(style.colors(["vgg16", "xception"]).values()) == list(style.NAMES[:2])


def test_every_seed_is_a_dot_and_the_interval_is_named(store, record, monkeypatch):
    for depth in ("0", "20"):
        for seed in "012":
            record(150 + 5 * int(seed) + int(depth), unfreeze=depth, seed=seed)
    drawn = {each.name: each for each in charts(compared(store), store.client)}
    figure = drawn["unfreeze"].figure
    points = [line for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in points] == [[0.75, 0.775, 0.8], [0.85, 0.875, 0.9]]
    assert "Test accuracy (95 % over 3 seeds)" in texts(figure)


def test_the_confusion_matrix_adds_up_seeds_and_names_what_is_confused(store, record):
    for seed in "01":
        record(150, seed=seed, unfreeze="0")
    record(100, seed="0", unfreeze="20")
    chart = next(each for each in charts(compared(store), store.client) if each.name == "confusion-1")
    assert chart.caption == "Seeds 0, 1 added up. Confused most: cat taken for dog (100 of 400)."
    assert {"300", "100"} <= set(texts(chart.figure))


@pytest.mark.parametrize("count", [2, 15, 16, 60])
def test_a_confusion_matrix_has_numbers_up_to_15_classes_and_cuts_nothing(count):
    names = tuple(f"a_rather_long_name_of_a_class_{number}" for number in range(count))
    figure = confusion_matrix(7 * np.eye(count, dtype=int), names, "unfreeze=20")
    assert texts(figure).count("7") == (count if count <= 15 else 0)
    assert inside(figure)


def test_no_text_of_a_chart_is_cut(store, grid):
    for chart in charts(compared(store), store.client):
        assert inside(chart.figure), chart.name
        assert chart.figure.get_size_inches()[0] * 72 <= 400 or chart.name.startswith("confusion")


def test_the_page_is_whole_and_asks_for_nothing_from_outside(store, grid, tmp_path):
    found = compared(store)
    written = write_report(found, store, tmp_path / "out", [], "")
    text = written.read_text()
    assert text.count("<svg") == text.count("<figure>") >= 6
    for outside in ('src="http', "<link", "@import", "url(http", "href=http"):
        assert outside not in text
    assert text.count("<tr>") == 1 + len(found.variants) + 1 + 2
    assert found.verdicts[0].summary in text
    for words in ("18, the newest of", "precision", "effnetb0", "prefers-color-scheme: dark"):
        assert words in text


def test_names_from_outside_are_only_text_in_the_page(store, record, tmp_path):
    record(180, backbone="<script>alert(1)</script>")
    record(170, backbone="xception")
    assert "<script>alert" not in write_report(compared(store), store, tmp_path / "out", [], "").read_text()


def test_the_note_has_the_table_the_charts_and_the_command(store, record, tmp_path):
    for depth in ("0", "20"):
        record(180, backbone="vgg16", unfreeze=depth, tags={"thaw.command": "python train.py -m unfreeze=0,20"})
    note = write_note(compared(store), store, tmp_path)
    text = note.read_text()
    assert text.startswith("# pets\n")
    assert "| unfreeze | validation accuracy | test accuracy (95 % over 200 test images) |" in text
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
    write_report(found, store, tmp_path / "out", [], "")
    assert [each.path for each in store.client.list_artifacts(parent.info.run_id)] == ["report.html"]


def test_a_heat_map_is_of_the_best_of_all_others_and_of_no_mean(store, record, monkeypatch):
    for depth, percent, right in (("0", "1", 100), ("0", "100", 150), ("20", "1", 120), ("20", "100", 200)):
        record(right, unfreeze=depth, fraction=percent, backbone="vgg16")
        record(right // 2, unfreeze=depth, fraction=percent, backbone="xception")
    drawn = {}
    monkeypatch.setattr(plots, "heat_map", lambda grid, rows, columns, labels, title: drawn.update({title: grid}))
    list(charts(compared(store), store.client))
    np.testing.assert_array_equal(drawn["with vgg16"], [[0.5, 0.6], [0.75, 1.0]])
    assert "with unfreeze=20" in drawn


def test_the_order_is_that_of_validation_and_the_test_stands_beside_it(store, record):
    for depth, validation, test in (("0", 0.9, 0.5), ("30", 0.8, 0.7)):
        record(
            unfreeze=depth, right=int(test * IMAGES), metrics={"kept_val_accuracy": validation, "test_accuracy": test}
        )
    found = compared(store)
    assert [each.values["unfreeze"] for each in found.variants] == ["0", "30"]
    headings, lines = table_rows(found)
    assert headings[:3] == ["unfreeze", "validation accuracy", "test accuracy (95 % over 200 test images)"]
    assert [line[1] for line in lines] == ["0.900", "0.800"]
    assert [each.values["unfreeze"] for each in compared(store, metric="test_accuracy").variants] == ["30", "0"]


def test_the_simplest_is_tested_though_it_is_not_among_the_best(store, record):
    for number, depth in enumerate(("0", "5", "10", "20", "30", "50")):
        record(100 + 10 * number, backbone="vgg16", unfreeze=depth)
    pairs = [{each.better.name, each.other.name} for each in compared(store).differences]
    assert {"unfreeze=50", "unfreeze=0"} in pairs
    assert {"unfreeze=50", "unfreeze=5"} not in pairs


def test_against_tests_each_of_the_best_with_its_counterpart(store, record):
    for backbone in ("vgg16", "xception"):
        for depth, right in (("0", 100), ("20", 140), ("30", 150)):
            record(right + 5 * (backbone == "xception"), backbone=backbone, unfreeze=depth)
    found = compared(store, against="unfreeze=0")
    pairs = {(each.better.name, each.other.name) for each in found.differences}
    assert pairs == {
        (f"{name} unfreeze={depth}", f"{name} unfreeze=0") for name in ("vgg16", "xception") for depth in (20, 30)
    }
    assert found.verdicts[0].summary.startswith("Unfreezing helps: 30 layers +25.0 points (")
    with pytest.raises(ThawError, match="unfreeze is 0, 20, 30"):
        compared(store, against="unfreeze=7")
    with pytest.raises(ThawError, match="what varies is backbone, unfreeze; give KEY=VALUE of it"):
        compared(store, against="depth=0")


@pytest.mark.parametrize(
    ("rights", "verdict"),
    [
        ((100, 160), r"Unfreezing helps: 30 layers \+30.0 points \(\+23.5 to \+36.5\), 1.5 times the training time"),
        ((150, 152), r"No gain shown from unfreezing: 30 layers \+1.0 points \(\+0.0 to \+2.5\)"),
        ((160, 100), r"Unfreezing hurts: 30 layers -30.0 points \(-36.5 to -23.5\), 0.65 times the training time"),
    ],
)
def test_the_verdict_answers_the_question(store, record, rights, verdict):
    for depth, right in zip(("0", "30"), rights):
        record(right, unfreeze=depth)
    (said,) = compared(store).verdicts
    assert re.fullmatch(verdict, said.summary), said.summary


def test_the_verdict_on_data_augmentation_and_backbones(store, record):
    for percent, augmentation, backbone, right in (
        ("100", "standard", "vgg16", 190), ("10", "standard", "vgg16", 120), ("100", "none", "vgg16", 188),
        ("100", "standard", "xception", 150),
    ):  # fmt: skip
        record(right, fraction=percent, augmentation=augmentation, backbone=backbone)
    said = {each.key: each.summary for each in compared(store).verdicts}
    assert said["fraction"].startswith("More data than 10 % helps: 100 % of the training images +35.0 points")
    assert said["augmentation"].startswith("No gain shown from augmentation: standard +1.0 points")
    assert said["backbone"].startswith("backbone: vgg16 is better than xception; vgg16 +20.0 points")


def test_what_would_show_a_difference_is_said(store, record):
    record(150, unfreeze="0")
    record(152, unfreeze="30")
    (single,) = compared(store).differences
    assert "1.0 points would need about 780 test images" in single.summary
    for seed in "123":
        record(150 + int(seed), unfreeze="0", seed=seed)
        record(155 - int(seed), unfreeze="30", seed=seed)
    (several,) = compared(store).differences
    assert re.search(r"points would need about \d+ seeds", several.summary), several.summary


def test_what_is_no_better_after_fine_tuning_is_said(store, record):
    record(150, unfreeze="0")
    record(
        150,
        unfreeze="30",
        tags={"thaw.note": "Fine-tuning did not lower the validation loss; the head's weights were kept"},
    )
    said = sentences(compared(store))
    assert "Fine-tuning did not lower the validation loss; the head's weights were kept (1 of 2 runs)." in said


def test_backbones_are_held_against_each_other_at_the_same_depth_where_that_is_there(store, record):
    for backbone, depth, right in (("xception", "0", 180), ("effnetb0", "30", 150), ("effnetb0", "0", 100)):
        record(right, backbone=backbone, unfreeze=depth)
    said = {each.key: each.summary for each in compared(store).verdicts}
    assert said["backbone"].startswith("backbone: xception is better than effnetb0; xception +40.0 points")
    assert said["backbone"].endswith("with unfreeze=0")


def test_a_difference_with_more_than_one_cause_has_no_verdict(store, record):
    record(180, backbone="xception", unfreeze="30")
    record(100, backbone="effnetb0", unfreeze="0")
    found = compared(store)
    assert found.verdicts == []
    assert "xception unfreeze=30 is better than effnetb0 unfreeze=0" in found.differences[0].summary
    found = compared(store, against="unfreeze=0")
    assert found.verdicts == []
    assert len(found.differences) == 1


@pytest.mark.parametrize(
    ("held", "chosen", "verdict"),
    [
        ({"unfreeze": "20"}, {"unfreeze": "all"}, "Unfreezing more than 20 layers helps: all layers +30.0 points"),
        ({"fraction": "50"}, {"fraction": "10"}, "fraction: 10 is better than 50; 10 +30.0 points"),
        ({"head": "linear"}, {"head": "hidden"}, "head: hidden is better than linear; hidden +30.0 points"),
    ],
)
def test_a_verdict_speaks_of_more_only_where_there_is_more(store, record, held, chosen, verdict):
    record(100, **held)
    record(160, **chosen)
    (key, value) = next(iter(held.items()))
    (said,) = compared(store, against=f"{key}={value}").verdicts
    assert said.summary.startswith(verdict)


def test_what_is_there_is_not_said_to_be_needed():
    from thaw.statistics import TwoLevel

    found = TwoLevel(statistics.Interval(0.01, -0.01, 0.03), 0.2, seeds=0.0, images=1e-6, shared=1e-6)
    assert differences._needs_more(found, 3, 500) == ""


def test_few_seeds_make_the_number_of_images_larger():
    alone = statistics.images_needed(0.02, 1e-4)
    assert statistics.images_needed(0.02, 1e-4, 1e-5) > alone
    assert statistics.images_needed(0.02, 1e-4, 1e-6, seeds=3) > statistics.images_needed(0.02, 1e-4, 1e-6, seeds=30)


def test_the_kept_epoch_is_found_by_its_step(store, record):
    run = record(150, unfreeze="0")
    for step, value in ((7, 0.2), (8, 0.1)):  # a head that stopped early leaves out steps
        for key in ("val_loss", "val_accuracy", "stage"):
            store.client.log_metric(run, key, value, step=step)
    store.client.log_metric(run, "kept_epoch", 7)
    (variant,) = compared(store).variants
    ((epochs, kept),) = _histories(store.client, variant)
    assert (len(epochs), kept) == (6, 4)


def test_an_archive_that_is_not_there_is_not_fetched_for_the_page(store, record, monkeypatch, tmp_path):
    run = record(150, unfreeze="0")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(selection, "worst", lambda *_: pytest.fail("fetched"))
    dataset = types.SimpleNamespace(source="archive", url="https://example.org/pets.zip", sha256=None)
    monkeypatch.setattr(selection, "recorded_config", lambda *_: types.SimpleNamespace(dataset=dataset))
    assert _worst(compared(store), store) == (
        [], f"they are not here; python predict.py --run {run} --worst 12 downloads them"
    )  # fmt: skip


def test_runs_that_evaluate_other_weights_are_two_results(store, record):
    for evaluate, right in (("best", 150), ("last_stage", 160)):
        record(right, unfreeze="20", tags={"thaw.head": "a"}, **{"with.training.evaluate": evaluate})
    assert [each.name for each in compared(store).variants] == [
        "training.evaluate=last_stage",
        "training.evaluate=best",
    ]


def test_a_run_that_is_named_is_compared_though_another_says_the_same(store, record):
    runs = [record(150, unfreeze=depth, tags={"thaw.head": depth}) for depth in ("0", "0", "20")]
    assert {run.id for run in compared(store, runs=[runs[0], runs[2]]).runs} == {runs[0], runs[2]}


def test_of_equal_variants_the_simplest_comes_first(store, record):
    for depth in ("30", "0", "20"):
        record(150, unfreeze=depth)
    assert [each.values["unfreeze"] for each in compared(store).variants] == ["0", "20", "30"]


def test_where_the_head_was_kept_nothing_is_claimed_of_what_was_thrown_away(store, record):
    note = "Fine-tuning did not lower the validation loss; the head's weights were kept"
    record(150, unfreeze="0")
    record(150, unfreeze="20", tags={"thaw.note": note})
    (said,) = compared(store).verdicts
    assert said.summary == f"No gain from unfreeze 20: f{note[1:]}"


def test_many_times_the_training_time_is_a_number_that_people_write(store, record):
    for depth, right, seconds in (("0", 100, 3.6), ("30", 160, 763.0)):
        metrics = {"kept_val_accuracy": right / IMAGES, "test_accuracy": right / IMAGES, "training_seconds": seconds}
        record(right, unfreeze=depth, metrics=metrics)
    assert compared(store).verdicts[0].summary.endswith(", 212 times the training time")


@pytest.mark.parametrize(("count", "words"), [(810, "810"), (20_490, "20.5 k"), (7_332_690, "7.33 M")])
def test_weights_are_counted_in_few_digits(count, words):
    assert _short(count) == words
