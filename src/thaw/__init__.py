"""Thaw: transfer-learning experiments composed with Hydra, trained with Keras, recorded in MLflow."""

import os
import tempfile
from pathlib import Path

try:
    Path.home()
except RuntimeError:  # a user without a name, as in a container; MLflow cannot be imported without a home folder
    _home = Path(tempfile.gettempdir(), f"thaw-{os.getuid()}")
    _home.mkdir(mode=0o700, exist_ok=True)
    os.environ["HOME"] = str(_home if _home.stat().st_uid == os.getuid() else tempfile.mkdtemp())
