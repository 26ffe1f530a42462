"""What is measured: which photographs, networks, depths and epochs."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from thaw.config.compose import CONF
from thaw.models.backbones.applications import application

REAL = Path(os.environ.get("THAW_REAL", Path(__file__).resolve().parents[2] / "shared" / "real"))
PRETRAINED = REAL / "mobilenet_v2_0.35_224_imagenet_notop.h5"


@dataclass(frozen=True)
class Case:
    """One sweep.

    Attributes:
        name: what to call it.
        photographs: a folder with train/, val/ and test/, each with a folder per class.
        backbone: an option of `conf/backbone`.
        size: of an image, px a side.
        depths: how many layers each run unfreezes.
        epochs: of each stage.
        augmentation: `none` or `standard`.
        alpha: the width, for networks that have one.
        pretrained: a file of weights; None for weights drawn once and the same for all.
    """

    name: str
    photographs: Path
    backbone: str
    size: int
    depths: tuple[int, ...] = (0, 20, 30)
    epochs: int = 5
    augmentation: str = "none"
    alpha: float | None = None
    pretrained: Path | None = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(list((self.photographs / "train").iterdir()))

    @property
    def arguments(self) -> dict[str, float]:
        """What the function that builds the network takes besides."""
        return {"alpha": self.alpha} if self.alpha else {}

    @property
    def network(self) -> str:
        """The name of the backbone in Keras Applications."""
        return OmegaConf.load(CONF / "backbone" / f"{self.backbone}.yaml").name

    @property
    def weights(self) -> Path:
        """A file of initial weights, the same for everything that is measured."""
        if self.pretrained:
            return self.pretrained
        path = self.photographs.parent / f"{self.backbone}.weights.h5"
        if not path.exists():
            keras.utils.set_random_seed(0)
            shape = (self.size, self.size, 3)
            application(self.network)[1](
                include_top=False, input_shape=shape, weights=None, **self.arguments
            ).save_weights(path)
        return path


def photographs(folder: Path, train: int, validation: int, test: int) -> Path:
    """A folder with that many JPEGs of 348 px: real photographs where there are enough, else generated ones."""
    for split, source, count in (("train", "train", train), ("val", "test", validation), ("test", "test", test)):
        real = sorted((REAL / "grocery" / source).rglob("*.jpg"), key=lambda path: path.name)
        real = real[validation:] if split == "test" else real
        for number in range(count):
            place = folder / split / f"class_{number % 5}" / f"{number:05d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            if count <= len(real):
                shutil.copy(real[number], place)
            else:
                seed = [number, *split.encode()]  # no image in two splits
                colors = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
                Image.fromarray(colors).resize((348, 348), Image.Resampling.BICUBIC).save(place, quality=90)
    return folder
