"""A run, a comparison and a prediction where every path and name has signs that mean something to somebody."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY
from PIL import Image

ODD = [
    """{x}: #1 it's 苹果 [/b] why? "50%41" a=b~ & $(x)""",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("two words 50%41", "#1 it's", "苹果 [/b]", "{x}: :cat:", "why? a=b~", '"quoted" & $(x) \\')
    ),
]


@pytest.mark.parametrize("name", ODD)
def test_odd_paths_and_names_are_like_any_others(command, pictures, tmp_path, monkeypatch, capsys, name):
    import compare
    import predict

    store, photos = tmp_path / f"{name} store", tmp_path / f"{name} photos"
    photos.parent.mkdir(exist_ok=True)
    pictures({"cat": 6, f"{name} dog".replace("/", "|"): 6}).rename(photos)
    own = [each for each in TINY if each != "tracking.model=false"]
    status, out, err = command(
        "-m", *own, f"store={store}", "dataset=folder", f"dataset.path={photos}", f"tracking.experiment={name}",
        f"question={name}", "weights=random", "seed=0,1",
    )  # fmt: skip
    assert status == 0, out + err
    assert "Traceback" not in out + err
    assert f"python compare.py {shlex.quote(name)} --store {shlex.quote(str(store))}\n" in out
    assert (store / "mlflow.db").is_file()
    assert {each.name for each in tmp_path.iterdir()} == {
        each.relative_to(tmp_path).parts[0] for each in (store, photos)
    }

    monkeypatch.setattr(
        sys, "argv", ["compare.py", name, "--store", str(store), "--out", str(tmp_path / f"{name} page")]
    )
    assert compare.main() == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{name}: {name}\n")
    assert f"Written: {tmp_path / f'{name} page'}" in out
    assert "not tested on the same images" not in out

    picture = tmp_path / f"{name}.png"
    (photos / "cat" / "000.png").rename(picture)
    drawn = tmp_path / f"{name} drawn.png"
    arguments = ["--store", str(store), "--experiment", name, "--out", str(drawn)]
    monkeypatch.setattr(sys, "argv", ["predict.py", str(picture), *arguments])
    assert predict.main() == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{picture}: ")
    assert f"Drawn: {drawn}" in err
    assert Image.open(drawn).size[0] > 300


@pytest.mark.slow
def test_a_checkout_may_lie_anywhere(tmp_path):
    """The code, its configuration and its default store below a path with odd signs."""
    root = tmp_path / "a b%41 #'[x] 苹果? {y}"
    root.mkdir()
    for name in ("src", "conf", "experiments", "train.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    ran = subprocess.run(
        [sys.executable, root / "train.py", "-m", *TINY, "seed=0,1"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (root / "mlruns" / "mlflow.db").is_file()
    assert [each.name for each in tmp_path.iterdir()] == [root.name]


@pytest.mark.slow
def test_a_path_means_the_same_however_it_is_spelled_and_from_anywhere(
    command, pictures, tmp_path, monkeypatch, capsys
):
    import predict

    root = pictures({"cat": 6, "dog": 6})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    own = ["-m", *[each for each in TINY if each != "tracking.model=false"], "dataset=folder", "weights=random"]
    for spelled in ("pictures", "./elsewhere/../pictures", str(root), "link"):
        status, out, err = command(*own, f"dataset.path={spelled}", "tracking.experiment=x", "seed=0,1")
        assert status == 0, out + err
        assert out.count("finished before") == (0 if spelled == "pictures" else 2)
    assert len(list((tmp_path / "mlruns" / "sweeps").iterdir())) == 1
    assert len(list((tmp_path / "mlruns" / "runs").iterdir())) == 2
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["predict.py", "--worst", "2", "--store", str(tmp_path / "mlruns")])
    assert predict.main() == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
