"""What the result of a stage depends on, as one hash.

It covers the settings that matter, the images and labels in use, the bytes of the initial weights, the stage before,
the seed, the versions of TensorFlow and Keras, and the code that shapes results. Where things lie, how runs are
recorded or launched, and how fast the work is done are no part of it.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

from thaw.config import Config
from thaw.data import Dataset, Split
from thaw.network import Network
from thaw.stage import Stage

# The code whose change may change a result; what is computed from unchanged code is the same with and without a cache.
SHAPING = ("activations", "augmentation", "backbone", "data", "network", "pipeline", "stage")


def of_stage(stage: Stage, config: Config, network: Network, dataset: Dataset, train: Split, before: str) -> str:
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
        "settings": stage.settings.model_dump(exclude={"fraction"}),  # the images say which they are
        "batch_size": config.training.batch_size,
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
        "versions": [version("tensorflow"), version("keras")],
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


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
