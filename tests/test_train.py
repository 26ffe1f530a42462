"""The command from end to end, on tiny data, with MLflow on."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from urllib.parse import urlparse

import commands
import keras
import mlflow
import numpy as np
import pytest
from conftest import REAL, ROOT, TINY
from mlflow import MlflowClient

from thaw import runtime
from thaw.cli import train as cli
from thaw.models.graph import has_frozen_normalization
from thaw.models.kernels import fast
from thaw.training import checkpoints, stages


def test_a_sweep_is_one_parent_with_what_its_runs_nested_in_it_came_to(command, client, tmp_path):
    status, out, err = command("-m", *TINY, "unfreeze=0,3", "fraction=50,100")
    assert status == 0, err
    assert "[4/4] unfreeze=3 fraction=100 · finetune 1/1 · loss" in out
    assert "#/experiments/1/runs?workflowType=machine_learning" in out
    for words in ("4 runs", "unfreeze", "fraction", "validation accuracy", "test accuracy", "wall time"):
        assert words in out
    (parent,) = commands.sweeps_of(client())
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "unfreeze=0,3 fraction=50,100"
    runs = commands.runs_of(client(), parent)
    assert {run.info.run_name for run in runs} == {
        f"unfreeze={depth} fraction={percent}" for depth in (0, 3) for percent in (50, 100)
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.tags["thaw.command"] == shlex.join(["python", "train.py", *sys.argv[1:]])
    for run in runs:
        python, program, *alone = shlex.split(run.data.tags["thaw.command"])
        assert (python, program) == ("python", "train.py")
        given = {each.lower() for each in [*TINY, *run.info.run_name.split(), f"store={tmp_path}/mlruns"]}
        assert {each.lower() for each in alone} == given
        assert "None" not in run.data.params.values()
        assert run.info.end_time - run.info.start_time == pytest.approx(
            1000 * run.data.metrics["wall_seconds"], abs=5000
        )
    assert client().get_experiment(parent.info.experiment_id).name == "digits"
    accuracies = [(run.data.metrics["kept_val_accuracy"], run.data.metrics["test_accuracy"]) for run in runs]
    found = (parent.data.metrics["kept_val_accuracy"], parent.data.metrics["test_accuracy"])
    assert found in accuracies
    assert found[0] == max(accuracies)[0]
    assert (parent.data.metrics["runs"], parent.data.metrics["finished_runs"]) == (4, 4)
    assert (parent.data.tags["swept.unfreeze"], parent.data.tags["swept.fraction"]) == ("0,3", "50,100")
    assert parent.data.tags["mlflow.note.content"].startswith("| # | unfreeze | fraction | validation accuracy |")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run with both stages, recorded with its model: its MLflow run and the folder of its artifacts."""

    store = tmp_path_factory.mktemp("finished") / "mlruns"
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    overrides = [each for each in TINY if each != "tracking.model=false"]
    arguments = [*overrides, "unfreeze=3", "training.head.epochs=2", "seed=7", f"store={store}"]
    patch.setattr(sys, "argv", ["train.py", *arguments])
    assert commands.train() == 0
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    patch.undo()
    mlflow.set_tracking_uri(f"sqlite:///{store / 'mlflow.db'}")
    return client, run, Path(client.download_artifacts(run.info.run_id, ""))


def test_params_are_short_group_names_and_the_rest_flattened(finished):
    params = finished[1].data.params
    short = {"backbone": "keras", "weights": "random", "dataset": "digits", "fraction": "100", "unfreeze": "3"}
    short |= {"augmentation": "none", "head": "linear", "training": "staged", "seed": "7"}
    assert params.items() >= short.items()
    for key in (
        "training.head.learning_rate",
        "backbone.name",
        "weights.sha256",
        "batch_norm",
        "threads",
        "image_size",
    ):
        assert params[f"with.{key}"]
    assert len(params["with.weights.sha256"]) == 64


def test_metrics_run_on_across_stages(finished):
    client, run, _ = finished
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [0, 1, 2], name
    assert [point.value for point in client.get_metric_history(run.info.run_id, "stage")] == [0, 0, 1]
    rates = [point.value for point in client.get_metric_history(run.info.run_id, "learning_rate")]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4])
    last = run.data.metrics
    for name in (
        "test_loss",
        "test_accuracy",
        "test_macro_f1",
        "wall_seconds",
        "images_per_second",
        "trainable_parameters",
    ):
        assert name in last
    assert last["kept_val_loss"] == min(
        [point.value for point in client.get_metric_history(run.info.run_id, "val_loss")][2:]
    )


def test_trainable_parameters_are_those_of_the_last_stage(finished):
    assert finished[1].data.metrics["trainable_parameters"] == 256 * 256 + 256 * 10 + 10


def test_every_artifact_is_there(finished):
    found = {path.relative_to(finished[2]).as_posix() for path in finished[2].rglob("*") if path.is_file()}
    for name in (
        "config.yaml", "command.txt", "classes.txt", "manifest.csv", "learning_curves.png", "confusion_matrix.png",
        "per_class.csv", "predictions.csv", "packages.txt",
    ):  # fmt: skip
        assert name in found
    assert any(name.startswith("tensorboard/train/events") for name in found)
    assert any(name.startswith("tensorboard/validation/events") for name in found)


def test_the_manifest_says_what_each_image_was_for(finished):
    rows = list(csv.DictReader((finished[2] / "manifest.csv").open()))
    assert len(rows) == 120
    assert {row["stages"] for row in rows if row["split"] == "train"} == {"head finetune"}
    assert {row["stages"] for row in rows if row["split"] != "train"} == {""}


def test_predictions_agree_with_the_metrics(finished):
    _, run, folder = finished
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len(rows) == 40
    correct = np.mean([row["true"] == row["predicted"] for row in rows])
    assert run.data.metrics["test_accuracy"] == pytest.approx(correct)


def test_the_dataset_is_recorded_with_its_digest(finished):
    (used,) = finished[1].inputs.dataset_inputs
    assert used.dataset.name == "digits"
    assert len(used.dataset.digest) == 16
    tags = {tag.key: tag.value for tag in used.tags}
    assert len(tags.pop("contents")) == 16
    assert tags == {"mlflow.data.context": "training", "fraction": "100"}
    assert json.loads(used.dataset.profile)["images"] == {"train": 40, "validation": 40, "test": 40}


@pytest.mark.parametrize(("evaluate", "chosen"), [("best", "head"), ("last_stage", "finetune")])
def test_a_recorded_model_says_whether_batch_normalization_trained(command, client, evaluate, chosen):
    """As `predict.py` folds it only if it did not."""
    settings = ["unfreeze=all", "training.head.epochs=3", "training.finetune.learning_rate=1e-5"]
    assert command(*TINY, *settings, f"training.evaluate={evaluate}", "tracking.model=true")[0] == 0
    (run,) = client().search_runs(["1"])
    assert run.data.params["with.batch_norm"] == "train"
    assert run.data.tags["thaw.kept_stage"] == chosen
    place = client().get_logged_model(run.outputs.model_outputs[0].model_id).artifact_location
    (file,) = Path(urlparse(place).path).rglob("*.keras")
    model = keras.saving.load_model(file, compile=False)
    assert has_frozen_normalization(model) == (chosen == "head")
    assert run.data.metrics["trainable_parameters"] > 20_000


def test_tags_name_the_commit_and_the_command(finished):
    tags = finished[1].data.tags
    assert tags["thaw.command"].startswith("python train.py backbone=keras")
    assert tags["mlflow.source.name"] == "train.py"
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert tags.get("mlflow.source.git.commit", "") == head.stdout.strip()


def test_the_recorded_model_predicts_what_was_recorded(finished):
    from thaw.config.schema import Dataset
    from thaw.data.dataset import load_dataset
    from thaw.modalities.images import decode

    client, run, folder = finished
    model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    given = Dataset(
        source="digits",
        name="digits",
        path=None,
        image_size=32,
        images_per_class=4,
        on_bad="error",
        max_megapixels=100.0,
        fold=None,
        folds=5,
    )
    test = load_dataset(given, 7, folder).test
    pixels = np.stack([decode.read(image, 32) for image in test.images]).astype(np.float32)
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert [row["file"] for row in rows] == list(test.names)
    recorded = np.array([[float(row[str(digit)]) for digit in range(10)] for row in rows])
    # MLflow computes it with Keras' own layers, and random weights amplify how these round.
    np.testing.assert_allclose(model.predict(pixels), recorded, rtol=1e-3, atol=1e-6)
    model = mlflow.tensorflow.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    found = fast(model, fold=has_frozen_normalization(model)).predict(pixels, verbose=0)
    np.testing.assert_allclose(found, recorded, rtol=1e-5, atol=1e-6)
    requirements = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{run.outputs.model_outputs[0].model_id}"))
    assert "tensorflow==" in requirements.read_text()


def test_kept_activations_and_repetition_change_no_bit(command, client):
    """Once with activations on disk, once with those that the first kept, and once without any."""
    plan = [*TINY, "unfreeze=6", "head.dropout=0.3", "augmentation=standard", "training.finetune.epochs=2"]
    for extra in ([], ["rerun=true"], ["rerun=true", "activations=off"]):
        status, out, err = command(*plan, *extra)
        assert status == 0, err
        assert "finetune 2/2 · loss" in out
    assert "Trains without cached features: activations=off." in out
    runs = client().search_runs(["1"])
    first, second, off = (commands.numbers(client(), run) for run in runs)
    assert len(first["train_loss"]) == 3
    assert first == second == off


def test_a_run_that_fails_leaves_the_others_alone(command, client):
    status, out, err = command("-m", *TINY, "unfreeze=0,999")
    assert status == 1
    assert "✗ [2/2] unfreeze=999 · failed: unfreeze=999 is beyond MobileNet" in out
    assert "Traceback" not in err
    assert "2 unfreeze=999 FAILED: unfreeze=999 is beyond" in out
    (parent,) = commands.sweeps_of(client())
    assert parent.info.status == "FAILED"
    by_name = {run.info.run_name: run for run in commands.runs_of(client(), parent)}
    assert by_name["unfreeze=0"].info.status == "FINISHED"
    assert by_name["unfreeze=999"].info.status == "FAILED"
    assert "has 86 layers" in by_name["unfreeze=999"].data.tags["thaw.error"]


def test_a_sweep_is_kept_in_one_place(command, tmp_path):
    status, _, err = command("-m", *TINY, "unfreeze=0,3", f"store={tmp_path}/a,b")
    assert status == 1
    assert "has several values, and a sweep takes one; put quotes around" in err
    assert not (tmp_path / "a").exists()


def test_a_sweep_with_a_wrong_value_starts_nothing(command, tmp_path):
    status, _, err = command("-m", *TINY, "unfreeze=0,most")
    assert status == 1
    assert "unfreeze=most is not allowed" in err
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset=folder", "dataset.path=/nowhere", "weights=random"], "/nowhere is not a folder"),
        (["weights=file", "weights.path=/nowhere.h5"], "/nowhere.h5 is not a file"),
        (["tracking.uri=nonsense"], "tracking.uri=nonsense is no tracking store"),
        (["backbone.name=NoNet"], "backbone.name=NoNet is not a Keras Applications model"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_the_status_is_1(command, overrides, words):
    status, _, err = command(*TINY, *overrides)
    assert status == 1
    assert words in err
    assert "Traceback" not in err


def test_a_file_that_breaks_off_after_the_check_is_named_when_it_is_read(command, pictures, monkeypatch):
    monkeypatch.setattr("thaw.modalities.images.decode.problem", lambda content, megapixels: "")
    root = pictures({"a": 8, "b": 8}, size=200)
    for file in root.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:5000])
    status, _, err = command(*TINY, "dataset=folder", f"dataset.path={root}", "weights=random")
    assert status == 1
    assert "does not decode as an image" in err
    assert "Traceback" not in err


def test_a_full_disk_is_said_in_one_sentence(command, monkeypatch, client):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.State, "on_epoch_end", full)
    status, _, err = command(*TINY)
    assert status == 1
    assert "The disk is full; free some space" in err
    assert client().search_runs(["1"])[0].info.status == "FAILED"


def test_a_defect_of_ours_keeps_its_traceback(command, monkeypatch):
    monkeypatch.setattr(stages, "plan_stages", lambda *_: 1 / 0)
    status, _, err = command(*TINY)
    assert status == 1
    assert "Traceback" in err
    assert "ZeroDivisionError" in err


def test_an_interrupt_marks_the_run_killed_and_ends_the_sweep(command, client, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.State, "on_epoch_end", interrupt)
    status, out, err = command("-m", *TINY, "seed=0,1")
    assert status == 130
    assert "1 of 2 runs did not start" in out
    (parent,) = commands.sweeps_of(client())
    assert [run.info.status for run in commands.runs_of(client(), parent)] == ["KILLED"]


def test_an_interrupt_that_tensorflow_swallows_still_interrupts(command, client, monkeypatch):
    monkeypatch.setattr(checkpoints.State, "on_epoch_end", lambda *_: runtime.interrupted.set())
    assert command(*TINY, "training.head.epochs=3")[0] == 130
    assert [run.info.status for run in client().search_runs(["1"])] == ["KILLED"]


def test_an_interrupt_that_tensorflow_turns_into_an_error_is_one(command, client, monkeypatch):
    def unknown(*_):
        runtime.interrupted.set()
        raise RuntimeError("KeyboardInterrupt")

    monkeypatch.setattr(checkpoints.State, "on_epoch_end", unknown)
    assert command(*TINY)[0] == 130
    assert client().search_runs(["1"])[0].info.status == "KILLED"


@pytest.mark.slow
def test_jobs_in_parallel_nest_under_one_parent_and_share_the_cores(tmp_path):
    store = tmp_path / "mlruns"
    sweep = ["-m", *TINY, "unfreeze=0,1,2", "hydra/launcher=local", "hydra.launcher.n_jobs=2", f"store={store}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *sweep], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (parent,) = commands.sweeps_of(client)
    runs = commands.runs_of(client, parent)
    assert {run.info.run_name for run in runs} == {"unfreeze=0", "unfreeze=1", "unfreeze=2"}
    assert {run.info.status for run in runs} == {"FINISHED"}

    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {run.data.params["with.threads"] for run in runs} == {str(share)}
    assert "3 runs" in done.stdout


def test_ctrl_c_on_the_command_itself(tmp_path):
    program = [
        sys.executable,
        str(ROOT / "train.py"),
        *TINY,
        "training.head.epochs=500",
        f"store={tmp_path / 'mlruns'}",
    ]
    process = subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "head 2/500" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.endswith("Interrupted; the same command resumes it.\n")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    assert client.search_runs(["1"])[0].info.status == "KILLED"


@pytest.mark.slow
def test_thirty_runs_in_one_process_leave_memory_as_they_found_it(command, tmp_path):
    import psutil

    used = []
    for number in range(30):
        status, _, err = command(*TINY, f"seed={number}")
        assert status == 0, err
        used.append(psutil.Process().memory_info().rss)
    # TensorFlow keeps the graph of each training step, which is 2 MB; a network that stays is 9 MB.
    assert used[-1] - used[9] < 20 * 4e6, [each // 2**20 for each in used]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_another_result_that_keeps_its_promises(command, client, precision):
    import keras

    plan = [*TINY, "unfreeze=3", "training.finetune.epochs=2"]
    for extra in ([], [f"training.precision={precision}"], [f"training.precision={precision}", "activations=off"]):
        status, _, err = command(*plan, *extra, *(["rerun=true"] if "activations=off" in extra else []))
        assert status == 0, err
    again, mixed, plain = client().search_runs(["1"])
    losses = [
        [p.value for p in client().get_metric_history(r.info.run_id, "train_loss")] for r in (again, mixed, plain)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert np.allclose(losses[1], losses[2], rtol=0.1)  # of random weights, which forgive less than others
    assert keras.config.dtype_policy().name == "float32"


def test_two_gpus_are_asked_for_where_there_are_none(command):
    status, _, err = command(*TINY, "training.strategy=mirrored")
    assert status == 1
    assert "training.strategy=mirrored needs two GPUs or more, and TensorFlow sees 0" in err
    assert "Traceback" not in err


TWO_DEVICES = """
import sys

import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import commands

for strategy in ("single", "mirrored"):
    sys.argv = ["train.py", *sys.argv[1:], f"training.strategy={strategy}"]
    assert commands.train() == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["training.class_weights=balanced"],
        [
            "optimizer=adamw", "optimizer.layer_decay=0.5", "regularisation=l2", "regularisation.backbone=0.1",
            "regularisation.head=0.1", "loss=focal",
        ],
        ["augmentation=mixup", "optimizer=sgd", "schedule=cosine"],
    ],
    ids=["plain", "weights", "penalty", "mixup"],
)  # fmt: skip
def test_two_devices_come_to_what_one_does(client, tmp_path, extra):
    """50 images in batches of 16: one device has nothing but filling in its half of the last batch."""
    plan = [*TINY, "unfreeze=6", "threads=1", "training.batch_size=16", *extra]
    epochs = [
        "dataset.images_per_class=5",
        "training.head.epochs=2",
        "training.finetune.epochs=2",
        f"store={tmp_path / 'mlruns'}",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, *plan, *epochs],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    mirrored, single = client().search_runs(["1"])
    assert mirrored.data.params["with.training.strategy"] == "mirrored"
    for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        found = [[p.value for p in client().get_metric_history(r.info.run_id, name)] for r in (mirrored, single)]
        assert len(found[0]) == 4
        assert np.allclose(*found, rtol=1e-5, atol=0), name


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no photographs at {REAL}; set THAW_REAL")
def test_fine_tuning_adds_to_feature_extraction_on_real_photographs(command, client):
    """Measured with plain Keras: 71 % for the head alone and 78 % for the last 30 layers; 520 test images."""
    weights = REAL / "mobilenet_v2_0.35_224_imagenet_notop.h5"
    network = ["backbone=mobilenetv2", "backbone.alpha=0.35", "weights=file", f"weights.path={weights}"]
    photographs = ["dataset=folder", f"dataset.path={REAL / 'grocery'}", "dataset.image_size=160"]
    status, _, err = command("-m", *network, *photographs, "unfreeze=0,30", "tracking.model=false")
    assert status == 0, err
    (parent,) = commands.sweeps_of(client())
    accuracy = {
        run.data.params["unfreeze"]: run.data.metrics["test_accuracy"] for run in commands.runs_of(client(), parent)
    }
    assert accuracy["0"] >= 0.66
    assert accuracy["30"] >= accuracy["0"] + 0.03


@pytest.mark.slow
def test_class_weights_make_another_stage_and_folds_another_test(command, client):
    for extra in ([], ["training.class_weights=balanced"], ["dataset.fold=1"]):
        status, out, err = command(*TINY, *extra)
        assert status == 0, err
    plain, balanced, fold = reversed(client().search_runs(["1"], order_by=["start_time DESC"]))
    assert len({run.data.tags["thaw.head"] for run in (plain, balanced, fold)}) == 3
    assert plain.inputs.dataset_inputs[0].dataset.digest == balanced.inputs.dataset_inputs[0].dataset.digest
    assert plain.inputs.dataset_inputs[0].dataset.digest != fold.inputs.dataset_inputs[0].dataset.digest
    assert 0 <= plain.data.metrics["waiting_share"] <= 1


def test_a_range_of_blocks_trains_and_is_described(command, client):
    status, _, err = command("-m", *TINY, "unfreeze=block1..block2,1block", "training.finetune.learning_rate=0.01")
    assert status == 0, err
    runs = {run.data.params["unfreeze"]: run for run in client().search_runs(["1"], "tags.`thaw.kind` = 'run'")}
    first = runs["block1..block2"]
    assert "blocks 1 to 2 of the backbone train as well" in first.data.tags["mlflow.note.content"]
    assert first.data.params["with.unfrozen.blocks"] == "2"
    assert first.data.tags["thaw.head"] == runs["1block"].data.tags["thaw.head"]
    status, out, err = command(*TINY, "training=gradual", "unfreeze=block1..block2")
    assert status == 1
    assert "unfreeze=block1..block2 trains a range of blocks, and training.block1.unfreeze=1block those at" in out + err


def test_a_stage_after_a_deeper_one_does_not_take_its_features_for_the_initial_ones(command, client):
    """The head after fine-tuning, from the cache and without it; and a run after it has what it has alone."""
    backwards = [*TINY, "unfreeze=6", "training.stages=[finetune,head]", "training.finetune.learning_rate=0.01"]
    for extra in ([], ["activations=off", "rerun=true"]):
        assert command(*backwards, *extra)[0] == 0
    off, kept = client().search_runs(["1"])
    assert commands.numbers(client(), off) == commands.numbers(client(), kept)
    assert command(*TINY, "unfreeze=6")[0] == 0
    after, *_ = client().search_runs(["1"])
    cli.NETWORKS.clear()
    assert command(*TINY, "unfreeze=6", "rerun=true", "activations=off")[0] == 0
    alone, *_ = client().search_runs(["1"])
    assert commands.numbers(client(), alone) == commands.numbers(client(), after)


def test_layers_that_start_anew_have_to_train(command, client):
    status, out, err = command(*TINY, "unfreeze=3", "reinit=2blocks")
    assert status == 1
    assert "reinit=2blocks starts layers anew that unfreeze leaves frozen; give unfreeze=2blocks or more" in out + err


def test_a_refused_value_names_the_key_and_no_run(command):
    status, out, err = command(*TINY, "unfreeze=-1")
    assert (status, err) == (
        1,
        "unfreeze=-1 is not allowed; give a number of layers from 0 up, a range of blocks such as block2..block4, a "
        "number of blocks such as 2blocks, or all\n",
    )
    assert "✗" not in out


def test_a_dataset_that_cannot_be_used_ends_a_sweep_before_anything_is_recorded(command, pictures, tmp_path):
    root = pictures({"cat": 6, "dog": 6})
    (root / "cat" / "000.png").write_bytes(b"no picture")
    own = [each for each in TINY if not each.startswith("dataset.")]
    status, out, err = command("-m", *own, "dataset=folder", f"dataset.path={root}", "unfreeze=0,3")
    assert status == 1
    assert err.count("cat/000.png: is not an image of a known format") == 1
    assert "✗" not in out
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
    assert not list((tmp_path / "mlruns").glob("sweeps/*"))


@pytest.fixture
def worse_fine_tuning(command, client):
    """A sweep whose fine-tuning makes things worse, as its rate is far too high: for each `evaluate` the run."""

    def run(evaluate):
        plan = [*TINY, "training.head.epochs=3", "training.finetune.learning_rate=10", "training.finetune.epochs=2"]
        status, out, err = command(*plan, "unfreeze=3", f"training.evaluate={evaluate}")
        assert status == 0, err
        runs = client().search_runs(["1"])
        return out, next(run for run in runs if run.data.params["with.training.evaluate"] == evaluate)

    return run


def test_where_fine_tuning_makes_it_worse_the_head_is_kept_and_that_is_said(worse_fine_tuning, command, client):
    out, kept = worse_fine_tuning("best")
    losses = [point.value for point in client().get_metric_history(kept.info.run_id, "val_loss")]
    assert kept.data.metrics["kept_val_loss"] == min(losses) == min(losses[:3])
    assert kept.data.metrics["kept_epoch"] == losses.index(min(losses))
    assert kept.data.tags["thaw.kept_stage"] == "head"
    assert "fine-tuning did not lower the loss" in out
    said = "Fine-tuning did not lower the validation loss; the head's weights were kept"
    assert said in out
    assert kept.data.tags["thaw.note"] == said
    assert said in kept.data.tags["mlflow.note.content"]
    # The weights are those of the head alone, to the bit.
    status, _, err = command(*TINY, "training.head.epochs=3", "unfreeze=0", "training.evaluate=best")
    assert status == 0, err
    alone = next(run for run in client().search_runs(["1"]) if run.data.params["unfreeze"] == "0")
    assert alone.data.metrics["test_loss"] == kept.data.metrics["test_loss"]


@pytest.mark.slow
def test_the_last_stage_is_tested_when_asked_and_that_it_is_worse_is_said(worse_fine_tuning, client):
    _, last = worse_fine_tuning("last_stage")
    losses = [point.value for point in client().get_metric_history(last.info.run_id, "val_loss")]
    assert last.data.metrics["kept_val_loss"] == min(losses[3:]) > min(losses)
    assert last.data.tags["thaw.kept_stage"] == "finetune"
    assert last.data.tags["thaw.note"].endswith("its weights were kept")


def test_the_device_and_the_store_are_said(command, tmp_path):
    _, out, _ = command(*TINY, "unfreeze=0")
    assert "Device: CPU, 2 threads" in out
    assert f"Store: {tmp_path / 'mlruns'} holds" in out


@pytest.mark.parametrize(("augmentation", "pictures_drawn"), [("none", 24), ("standard", 24)])
def test_a_preview_draws_a_batch_and_trains_nothing(command, tmp_path, monkeypatch, augmentation, pictures_drawn):
    from thaw.plots import predictions

    monkeypatch.chdir(tmp_path)
    drawn = []
    real = predictions.batch
    monkeypatch.setattr(predictions, "batch", lambda *arguments: drawn.append(arguments) or real(*arguments))
    status, out, err = command(*TINY, f"augmentation={augmentation}", "--preview")
    assert status == 0, err
    ((rows, columns, title),) = drawn
    assert sum(len(views) for _, views in rows) == pictures_drawn
    assert {name for name, _ in rows} <= set("0123456789")
    assert title == f"digits, 32 px, augmentation {augmentation}"
    if augmentation == "standard":
        assert columns == ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
        assert all((views[0] != views[1]).any() for _, views in rows)
    assert (tmp_path / "preview.png").stat().st_size > 10_000
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
    assert command("-m", *TINY, "unfreeze=0,3", "--preview")[2].startswith("--preview shows one run")


def test_the_kept_epoch_is_its_step_in_mlflow_after_a_head_that_stopped_early(command, client):
    plan = ["training.head.epochs=6", "training.head.patience=1", "training.head.learning_rate=1e-12"]
    plan += ["training.finetune.learning_rate=1e-12", "training.evaluate=last_stage"]
    status, _, err = command(*TINY, *plan, "unfreeze=3")
    assert status == 0, err
    (run,) = client().search_runs(["1"])
    steps = [point.step for point in client().get_metric_history(run.info.run_id, "val_loss")]
    assert steps == [0, 1, 6]
    assert run.data.metrics["kept_epoch"] == 6


@pytest.mark.slow
def test_nothing_of_a_store_has_a_signature_or_a_password(command, tmp_path, monkeypatch):
    overrides = [each for each in TINY if each != "tracking.model=false"]
    status, out, err = command("-m", *overrides, "+dataset.url=https://h/a.zip?id=1&sig=s3cret", "seed=0,1")
    assert status == 0, out + err
    assert "s3cret" not in out + err
    files = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if b"s3cret" in path.read_bytes()]
    assert any(b"id=1&sig=***" in path.read_bytes() for path in files)


def test_a_wrong_key_of_a_sweep_is_one_sentence_and_leaves_no_store(tmp_path, command):
    for arguments in (["fold=0,1"], ["fold=0", "unfreeze=0,1"], ["training.head.epoch=1,2"]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Hydra makes warnings of the exceptions of callbacks
            status, out, err = command("-m", *TINY, *arguments)
        assert (status, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert "is not a key of the configuration; did you mean" in err
    assert not (tmp_path / "mlruns").exists()
