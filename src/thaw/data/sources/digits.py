"""`dataset=digits`: the handwritten digits that ship with scikit-learn."""

from pathlib import Path

import numpy as np

from thaw.config import schema
from thaw.data.listing import Listing


def listing(dataset: schema.Dataset, store: Path) -> Listing:
    """1,797 scans of handwritten digits, 8 x 8 px (UCI "Optical Recognition of Handwritten Digits", test part)."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    names = [f"digits/{index:04d}" for index in range(len(pixels))]
    classes: list[tuple[str, ...]] = [(str(scans.target_names[label]),) for label in scans.target]
    return Listing(dataset.name or "digits", names, classes, pixels, set().union(*classes))
