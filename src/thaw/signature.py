"""What the result of a stage or of a run depends on, as one hash.

It covers the settings that matter, the images and labels in use, the bytes of the initial weights, the stage before,
the seed, the versions of TensorFlow and Keras, and the code that shapes results. Where things lie, how runs are
recorded or launched, and how fast the work is done are no part of it. Nothing here needs TensorFlow, so that a run that
is finished is recognised in no time.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from thaw import fingerprint
from thaw.config import Config
from thaw.data import Dataset, Split

if TYPE_CHECKING:
    from thaw.network import Network
    from thaw.stage import Stage

# The code whose change may change a result; what is computed from unchanged code is the same with and without a cache.
SHAPING = (
    "activations", "augmentation", "backbone", "checkpoints", "data", "decoding", "evaluation", "network", "pipeline",
    "stage",
)  # fmt: skip

# What a run is called, where its parts lie, who records it and how fast it is done.
IRRELEVANT = {
    "store": True,
    "tracking": True,
    "threads": True,
    "rerun": True,
    "question": True,
    "dataset": {"source", "name", "path", "root", "columns", "url", "sha256", "on_bad", "max_megapixels"},
    "weights": {"path"},
    "augmentation": {"name"},
    "activations": {"keep", "max_gigabytes"},
}


def of_run(config: Config, dataset: Dataset, weights: str) -> str:
    """The signature of a run's result.

    Args:
        config: of the run.
        dataset: all its splits.
        weights: what the initial ones are: imagenet, random or file. With the versions, which pin the hash of what
            Keras downloads, the seed and the images that says which bytes they are; a file says so itself.

    Returns:
        64 hexadecimal digits.
    """
    file = Path(config.weights.path or "")
    content = fingerprint.of([file], Path(config.store))[0].hex() if weights == "file" and file.is_file() else ""
    parts = {
        **relevant(config),
        "weights": [weights, content],
        "classes": dataset.class_names,
        "images": [split.digest for split in dataset.splits().values()],
        "labels": [hashlib.sha256(split.labels.tobytes()).hexdigest() for split in dataset.splits().values()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def relevant(config: Config) -> dict:
    """The part of a configuration that a result depends on, with the versions and the code that bring it about."""
    return {**config.model_dump(mode="json", exclude=IRRELEVANT), "versions": _versions(), "code": code()}


def of_stage(stage: "Stage", config: Config, network: "Network", dataset: Dataset, train: Split, before: str) -> str:
    """The signature of a stage's result.

    Args:
        stage: what is trained, and for how long.
        config: of the run.
        network: has the backbone with its initial weights.
        dataset: has the classes, and the validation images that choose the epoch.
        train: the images that it trains on.
        before: the signature of the stage before, or nothing.

    Returns:
        64 hexadecimal digits.
    """
    parts = {
        "stage": [stage.name, stage.number, stage.depth, stage.first_epoch, stage.evaluate],
        "class_weights": stage.class_weights,
        "settings": stage.settings.model_dump(exclude={"fraction"}),  # the images say which they are
        "batch_size": config.training.batch_size,
        "computed": [config.training.precision, config.training.strategy],
        "head": config.head.model_dump(),
        "augmentation": config.augmentation.model_dump(exclude={"name"}),
        "dtype": config.activations.dtype,
        "seed": config.seed,
        "backbone": [config.backbone.name, config.backbone.alpha, config.image_size, network.backbone.digest],
        "batch_norm": network.batch_norm if stage.depth == "all" else "frozen",
        "classes": dataset.class_names,
        "images": [split.digest for split in (train, dataset.validation)],
        "labels": [hashlib.sha256(split.labels.tobytes()).hexdigest() for split in (train, dataset.validation)],
        "before": before,
        "versions": _versions(),
        "code": code(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code() -> str:
    """The hash of the code that shapes results."""
    here = Path(__file__).parent
    return hashlib.sha256(
        "\n".join(meaning((here / f"{name}.py").read_text()) for name in SHAPING).encode()
    ).hexdigest()


def meaning(source: str) -> str:
    """Python code as text that comments, docstrings and formatting leave as it is."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return ast.unparse(tree)


def _versions() -> list[str]:
    return [version("tensorflow"), version("keras")]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
