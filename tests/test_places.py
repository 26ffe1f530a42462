"""A run, a comparison and a prediction where every path and name has signs that mean something to somebody."""

import sys

import pytest
from conftest import TINY
from PIL import Image

ODD = ["two words 50%41", "#1 it's", "苹果 [/b]", "{x}: :cat:", "why? a=b~", '"quoted" & $(x) \\']


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
