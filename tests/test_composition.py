import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from thaw.cli import argv
from thaw.config.overrides import sweep_overrides, sweep_size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backbone=effnetb00"], ["backbone=effnetb00 does not exist", "xception", "did you mean effnetb0?"]),
        (["experiment=unfreeze_dept"], ["experiment=unfreeze_dept", "did you mean unfreeze_depth?"]),
        (["experiment=food_vision/model_9"], ["experiment=food_vision/model_9", "food_vision/model_4, fraction"]),
        (["unfreez=20"], ["unfreez is not a key", "did you mean unfreeze?"]),
        (["training.head.epoch=3"], ["training.head.epoch is not a key", "did you mean training.head.epochs?"]),
        (["backbon=xception"], ["backbon is not a key", "did you mean backbone?"]),
        (["-m", "backbone=effnetb0,xceptoin"], ["backbone=xceptoin", "did you mean xception?"]),
        (["unfreeze"], ["unfreeze"]),
    ],
)
def test_a_misspelling_is_answered_with_the_nearest_right_name(command, arguments, words):
    status, _, err = command(*arguments)
    assert status == 1
    for word in words:
        assert word in err
    assert "Traceback" not in err


def test_swept_keys_come_from_the_experiment_and_from_the_command_line():
    swept = sweep_overrides(["backbone=effnetb0,xception", "seed=3"], {"unfreeze": "0,20,30"})
    assert [each.key_or_group for each in swept] == ["unfreeze", "backbone"]
    assert sweep_size(swept) == 6


def test_a_value_on_the_command_line_replaces_the_sweep_of_an_experiment():
    assert sweep_overrides(["unfreeze=5"], {"unfreeze": "0,20,30"}) == []


def test_a_draw_from_an_interval_has_no_size():
    assert sweep_size(sweep_overrides(["training.head.learning_rate=interval(0,1)"], {})) is None


def test_quick_answers_import_neither_tensorflow_nor_mlflow(tmp_path):
    program = (
        "import runpy, sys\n"
        f"sys.argv[0] = {str(ROOT / 'train.py')!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "slow = {'tensorflow', 'keras', 'mlflow', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    environment = {**os.environ, "COMP_LINE": "train.py backbone=x", "COMP_POINT": "19"}
    for quick in (["--help"], ["--cfg", "job", "--resolve"], ["-sc", "query=bash"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *quick],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_help_names_every_group_and_its_options(command):
    status, out, _ = command("--help")
    assert status == 0
    for words in ("backbone: effnetb0", "mobilenetv2", "weights: auto* file imagenet random", "unfreeze_depth"):
        assert words in out


def test_completion_offers_options(monkeypatch, command):
    monkeypatch.setenv("COMP_LINE", "train.py backbone=x")
    monkeypatch.setenv("COMP_POINT", "19")
    status, out, _ = command("-sc", "query=bash")
    assert status == 0
    assert "backbone=xception" in out


@pytest.mark.slow
def test_an_experiment_sweeps_from_any_folder(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, err = command("experiment=unfreeze_depth", "unfreeze=0,1", *TINY)
    assert status == 0, err
    assert "[2/2] unfreeze=1" in out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mlruns"]


@pytest.mark.parametrize(
    "name",
    ["plain", "two words", "my pics (2024)", "a=b,c", "it's", "große Bücher", "[x]", "50 % off#1", "back\\", "{a: b}"],
)
@pytest.mark.parametrize("exists", [True, False])
def test_paths_are_taken_as_typed(tmp_path, monkeypatch, composed, name, exists):
    if exists:
        (tmp_path / name).mkdir()
    elif "," in name:
        pytest.skip("a comma separates values where nothing is called so")
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (f"~/{name}", f"{tmp_path}/{name}"):
        words = argv.texts_quoted(["dataset=folder", f"dataset.path={given}", "unfreeze=3"])
        assert composed(*words).dataset.path == f"{tmp_path}/{name}"


def test_a_folder_may_be_called_by_a_number(tmp_path, monkeypatch, composed):
    (tmp_path / "2024").mkdir()
    monkeypatch.chdir(tmp_path)
    words = argv.texts_quoted(["dataset=folder", "dataset.path=2024"])
    assert composed(*words).dataset.path == f"{tmp_path}/2024"


@pytest.mark.parametrize("name", ["2024", "1e5", "007", "1.50", "true", "[/b]", "a: b", "{x}", "it's", "苹果", "(a)"])
@pytest.mark.parametrize("key", ["tracking.experiment", "dataset.name", "dataset.columns.label"])
def test_names_are_taken_as_typed(monkeypatch, composed, key, name):
    table = ["dataset=table", "dataset.path=labels.csv"] if "columns" in key else []
    words = argv.texts_quoted([*table, f"{key}={name}"])
    found = composed(*words)
    assert {"tracking.experiment": found.experiment, "dataset.name": found.dataset.name}.get(
        key, found.dataset.columns and found.dataset.columns.label
    ) == name


def test_a_number_in_a_file_of_yaml_is_a_name_too(composed):
    assert composed("tracking.experiment=2024", "dataset.name=101").experiment == "2024"


def test_a_question_may_have_commas_and_brackets(monkeypatch, composed):
    words = argv.texts_quoted(["question=Which one, and why (really)?"])
    assert composed(*words).question == "Which one, and why (really)?"


def test_a_relative_path_means_the_same_from_any_folder(tmp_path, monkeypatch, composed):
    monkeypatch.chdir(tmp_path)
    found = composed("dataset=folder", "dataset.path=pictures/../photos", "weights=file", "weights.path=w.h5")
    assert (found.dataset.path, found.weights.path) == (f"{tmp_path}/photos", f"{tmp_path}/w.h5")
    assert Path(found.store).is_absolute()


def test_the_help_has_no_password(command):
    status, out, err = command("tracking.uri=http://bob:s3cret@127.0.0.1:9", "--help")
    assert status == 0
    assert "s3cret" not in out + err


def test_paths_of_a_sweep_become_whole(tmp_path, monkeypatch):
    for name in ("a", "b c"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    words = argv.texts_quoted(["-m", "dataset.path=a,b c"])
    assert words[1] == f"dataset.path={tmp_path}/a,'{tmp_path}/b c'"


@pytest.mark.parametrize("flag", ["-cn", "-cd", "-cp", "--config-name", "-m"])
def test_nothing_is_held_back_but_a_printed_configuration(monkeypatch, capsys, flag):
    with argv.printed_without_credentials([flag, "x"]):
        print("at once")
        assert capsys.readouterr().out == "at once\n"


def test_several_paths_stay_a_sweep(tmp_path, monkeypatch):
    words = argv.texts_quoted(["-m", f"dataset.path={tmp_path}/a,{tmp_path}/b"])
    assert words[1] == f"dataset.path={tmp_path}/a,{tmp_path}/b"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["unfreeze=0,20"], "unfreeze=0,20 is a list of values, which takes -m: python train.py -m unfreeze=0,20 ..."),
        (["weights.path=a.h5"], "weights.path belongs to weights=file; give that as well"),
        (
            ["training.finetune.optimizer=sgd"],
            "training.finetune.optimizer is not a key of the configuration; optimizer is a group of its own: "
            "give optimizer=adam|adamw|automm|fastai|lion|modern|rmsprop|sgd",
        ),
    ],
)
def test_what_is_missing_beside_it_is_said(command, given, words):
    assert command(*given)[::2] == (1, f"{words}\n")


def test_the_flag_for_several_values_may_stand_anywhere(monkeypatch):
    assert argv.flags_first(["unfreeze=0,20", "-m", "seed=1"]) == ["-m", "unfreeze=0,20", "seed=1"]


@pytest.mark.parametrize(
    "flags", [["--cfg", "job", "--resolve"], ["--cfg=all", "--resolve"], ["-c", "job", "--resolve"]]
)
def test_a_printed_configuration_has_no_password(command, monkeypatch, flags):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:s3cret@127.0.0.1/runs")
    status, out, err = command(*flags, "dataset=flowers", "dataset.url=https://h/a.zip?a=1&sig=s3cret")
    assert status == 0
    assert "uri: postgresql://***@127.0.0.1/runs" in out
    assert "url: https://h/a.zip?a=1&sig=***" in out
    assert "s3cret" not in out + err
