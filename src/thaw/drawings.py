"""Figures that Thaw drew: they are no data, and may be replaced."""

import stat
from pathlib import Path

from PIL import Image

from thaw.errors import ThawError

SOFTWARE = "Thaw"  # in the metadata of the PNGs that Thaw draws


def is_drawing(path: Path) -> bool:
    """Whether a file is a figure that Thaw drew."""
    if path.suffix.lower() != ".png":
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except Exception:
        return False


def check_replaceable(path: Path) -> None:
    """Refuse to overwrite a file that Thaw did not draw.

    Raises:
        ThawError: there is one.
    """
    if path.exists() and not is_drawing(path):
        raise ThawError(f"{path} exists, and Thaw did not draw it; move it, or work in another folder")
