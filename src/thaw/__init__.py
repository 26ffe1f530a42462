"""Thaw: transfer-learning experiments composed with Hydra, trained with Keras, recorded in MLflow."""

import os
import tempfile
from pathlib import Path

try:
    Path.home()
except RuntimeError:  # of a user without a name, as in a container; MLflow cannot be imported then
    os.environ["HOME"] = tempfile.gettempdir()
