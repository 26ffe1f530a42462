"""What the tests share: tiny datasets, the smallest network, and the command run in this process."""

import contextlib
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import absl.logging
import commands
import hydra
import numpy as np
import pytest
from PIL import Image

from thaw import runtime
from thaw.cli import environment
from thaw.config import compose
from thaw.config.validate import validate
from thaw.tracking import sqlite

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("THAW_REAL", ROOT.parent / "shared" / "real"))
sys.path.insert(0, str(ROOT))
environment.prepare()
CREATE_TABLES = sqlite.create_tables

# The smallest network with batch normalization, at the smallest size: what a test needs when any will do.
TINY = [
    "backbone=keras",
    "backbone.name=MobileNet",
    "backbone.alpha=0.25",
    "dataset.image_size=32",
    "dataset.images_per_class=4",
    "weights=random",
    "training.head.epochs=1",
    "training.finetune.epochs=1",
    "training.batch_size=8",
    "tracking.model=false",
]


@pytest.fixture(scope="session", autouse=True)
def tensorflow_on_two_threads():
    runtime.start(2)
    # TensorFlow's log handler closes the stream it was created with when Hydra sets up logging: here, pytest's own.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back():
    yield
    runtime.release()


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture(scope="session", autouse=True)
def databases_are_copied(tmp_path_factory):
    """MLflow takes seconds to create its tables; tests copy them, unless they use `creates_tables`."""
    template = tmp_path_factory.mktemp("database") / "mlflow.db"

    def copy(path, artifacts):
        if not template.exists():
            CREATE_TABLES(template, "file:///nowhere")
        shutil.copyfile(template, path)
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ?", (f"{artifacts}/0",))

    sqlite.create_tables = copy
    yield
    sqlite.create_tables = CREATE_TABLES


@pytest.fixture
def creates_tables(monkeypatch):
    """Have MLflow itself create its tables."""
    monkeypatch.setattr(sqlite, "create_tables", CREATE_TABLES)


@pytest.fixture
def composed():
    """Compose conf/ with overrides; returns the validated configuration."""

    def compose_and_validate(*overrides):
        with hydra.initialize_config_dir(str(compose.CONF), version_base="1.3"):
            return validate(hydra.compose("config", overrides=list(overrides)))

    compose.register()
    return compose_and_validate


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run train.py in this process, by default on a store of the test's own: status, output, errors."""

    def run(*arguments):
        own = [] if any(each.startswith("store=") for each in arguments) else [f"store={tmp_path / 'mlruns'}"]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *own])
        try:
            status = commands.train()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if not isinstance(stop.code, int | None):
                print(stop.code, file=sys.stderr)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def client(tmp_path):
    """MLflow's client for the store of `command`."""
    from mlflow import MlflowClient

    return lambda: MlflowClient(sqlite.address(tmp_path / "mlruns" / "mlflow.db"))


@pytest.fixture
def pictures(tmp_path):
    """Make folders of pictures: `pictures({"train/cat": 4})` gives the folder above."""

    def make(counts: dict[str, int], size: int = 40, ending: str = "png") -> Path:
        root = tmp_path / "pictures"
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                generator = np.random.default_rng([number, index])
                pixels = generator.integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{index:03d}.{ending}")
        return root

    return make
