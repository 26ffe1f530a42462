"""The network of a run in MLflow's format.

Keras reads every variable and creates every array of a file by itself, which takes longer than training a small head.
So the next run of a process that trains the same layers gets a copy of the file, in which those arrays are replaced.
"""

import io
import json
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import h5py
import keras
import mlflow
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from thaw import provenance
from thaw.models.network import Network
from thaw.models.units import Depth

FILE, WEIGHTS, METADATA = "data/model.keras", "model.weights.h5", "metadata.json"


@dataclass(frozen=True)
class SavedModel:
    """What was saved for a run.

    Attributes:
        described: the files that describe the model, by their path.
        members: the parts of its Keras file, by name.
        arrays: where each variable that trains is in the weights.
    """

    described: dict[str, bytes]
    members: dict[str, bytes]
    arrays: list[tuple[keras.Variable, str]]

    @staticmethod
    def read(folder: Path, layers: Sequence[keras.Layer]) -> "SavedModel | None":
        """Read what Keras and MLflow wrote; None if it does not have each variable of `layers` exactly once.

        Args:
            folder: that has the model.
            layers: those of the model whose variables have changed or may change.
        """
        paths = [path for path in folder.rglob("*") if path.is_file() and path != folder / FILE]
        described = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        with zipfile.ZipFile(folder / FILE) as file:
            members = {name: file.read(name) for name in file.namelist()}
        arrays = []
        with h5py.File(io.BytesIO(members[WEIGHTS])) as weights:
            groups = _groups(weights)
            for layer in layers:
                found = groups.get(layer.name, [])
                for number, variable in enumerate(layer.weights):
                    if len(found) != 1 or not np.array_equal(found[0].get(str(number)), variable, equal_nan=True):
                        return None
                    arrays.append((variable, f"{found[0].name}/{number}"))
        return SavedModel(described, members, arrays)

    def write(self, folder: Path) -> None:
        """Write it with the present values of the variables that train."""
        for name, content in self.described.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        changed = io.BytesIO(self.members[WEIGHTS])
        with h5py.File(changed, "r+") as weights:
            for variable, place in self.arrays:
                weights[place][...] = keras.ops.convert_to_numpy(variable)
        metadata = json.loads(self.members[METADATA]) | {"date_saved": time.strftime("%Y-%m-%d@%H:%M:%S")}
        members = {**self.members, METADATA: json.dumps(metadata).encode(), WEIGHTS: changed.getvalue()}
        with zipfile.ZipFile(folder / FILE, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        model = Model.load(str(folder / "MLmodel"))
        model.utc_time_created = str(datetime.now(UTC).replace(tzinfo=None))
        model.save(str(folder / "MLmodel"))


def save_model(network: Network, depth: Depth, classes: int, folder: Path) -> None:
    """Save a network, with how deep it was unfrozen.

    Args:
        network: with the weights to save.
        depth: that it is unfrozen to.
        classes: how many it tells apart.
        folder: for the model; what is there is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)  # left half-written by a kill
    key = (depth, classes, network.backbone.digest)
    before, saved = network.made.get("saved", (None, None))  # the last one only, as each has all weights
    if saved is not None and before == key:
        return saved.write(folder)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("float32"), (-1, *network.modality.shape))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, classes))]),
    )
    used = ("keras", "numpy", "tensorflow")
    requirements = [f"{name}=={version}" for name, version in provenance.packages() if name in used]
    mlflow.tensorflow.save_model(network.model, folder, signature=signature, pip_requirements=requirements)
    network.made["saved"] = key, SavedModel.read(folder, [*network.training_units(depth), *network.head])


def _groups(weights: h5py.File) -> dict[str, list[h5py.Group]]:
    """The groups of a file of weights, by the name of the layer that each has the variables of."""
    groups: dict[str, list[h5py.Group]] = {}

    def visit(path: str, item: h5py.Group | h5py.Dataset) -> None:
        if path.rpartition("/")[2] == "vars" and "name" in item.attrs:
            groups.setdefault(item.attrs["name"], []).append(item)

    weights.visititems(visit)
    return groups
