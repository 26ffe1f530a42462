"""What is measured: which photographs, networks, and runs."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from thaw.config.compose import CONF
from thaw.models.backbones.applications import application

REAL = Path(os.environ.get("THAW_REAL", Path(__file__).resolve().parents[2] / "shared" / "real"))
PRETRAINED = REAL / "mobilenet_v2_0.35_224_imagenet_notop.h5"


class Head(NamedTuple):
    """How the head of a run is trained."""

    rate: float
    hidden: int
    seed: int


@dataclass(frozen=True)
class Case:
    """One sweep: every depth with every rate, head and seed.

    Attributes:
        name: what to call it.
        photographs: a folder with train/, val/ and test/, each with a folder per class.
        backbone: an option of `conf/backbone`.
        size: of an image, px a side.
        depths: how many layers are unfrozen.
        rates: learning rates of fine-tuning.
        head_rates: learning rates of the head.
        hidden: units of the head's hidden layer; 0: none.
        seeds: of the runs.
        epochs: of each stage.
        augmentation: `none` or `standard`.
        alpha: the width, for networks that have one.
        pretrained: a file of weights; None for weights drawn once and the same for all.
    """

    name: str
    photographs: str
    backbone: str
    size: int
    depths: tuple[int, ...] = (0, 20, 30)
    rates: tuple[float, ...] = (1e-4,)
    head_rates: tuple[float, ...] = (1e-3,)
    hidden: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)
    epochs: int = 5
    augmentation: str = "none"
    alpha: float | None = None
    pretrained: str | None = None

    @staticmethod
    def read(text: str) -> "Case":
        """What `text` wrote."""
        return Case(**json.loads(text))

    @property
    def text(self) -> str:
        """The case as JSON."""
        return json.dumps(asdict(self))

    @property
    def heads(self) -> Iterator[Head]:
        """Every head."""
        return (Head(*each) for each in itertools.product(self.head_rates, self.hidden, self.seeds))

    @property
    def fine_tuning(self) -> list[tuple[int, float]]:
        """The depth and rate of what follows each head; depth 0: nothing does."""
        return list(itertools.product(self.depths, self.rates))

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(list(Path(self.photographs, "train").iterdir()))

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
            return Path(self.pretrained)
        path = Path(self.photographs).parent / f"{self.backbone}.weights.h5"
        if not path.exists():
            keras.utils.set_random_seed(0)
            shape = (self.size, self.size, 3)
            application(self.network)[1](
                include_top=False, input_shape=shape, weights=None, **self.arguments
            ).save_weights(path)
        return path


def six(folder: Path) -> list[Case]:
    """The six runs: two networks, three depths, 225 training, 75 validation and 75 test photographs."""
    pictures = photographs(folder / "six" / "photographs", 225, 75, 75)
    return [
        Case("EfficientNetB0", pictures, "effnetb0", 224),
        Case("Xception", pictures, "xception", 224),
    ]


def augmented(folder: Path) -> list[Case]:
    """The same with `augmentation=standard`."""
    return [replace(case, name=f"{case.name}, augmented", augmentation="standard") for case in six(folder)]


def rates(folder: Path) -> list[Case]:
    """Three depths, each with four learning rates of fine-tuning."""
    case = six(folder)[0]
    return [replace(case, name="EfficientNetB0, 12 runs", depths=(10, 20, 30), rates=(3e-5, 1e-4, 3e-4, 1e-3))]


def grocery(folder: Path) -> list[Case]:
    """Real weights on all of the real photographs."""
    if not REAL.is_dir():
        print(f"No photographs and weights at {REAL}: this case is left out.")
        return []
    real = str(REAL / "grocery")
    return [Case("MobileNetV2 0.35, grocery", real, "mobilenetv2", 160, alpha=0.35, pretrained=str(PRETRAINED))]


def heads(folder: Path) -> list[Case]:
    """The same photographs: 24 runs that train nothing but the head, by rate, hidden layer and seed."""
    variants = {"depths": (0,), "head_rates": (3e-4, 1e-3, 3e-3, 1e-2), "hidden": (0, 128), "seeds": (0, 1, 2)}
    return [replace(case, name=f"{case.name}, 24 heads", **variants) for case in grocery(folder)]


def small(folder: Path, images: int = 225) -> Case:
    """What growth is measured on: a small network at a small size."""
    pictures = photographs(folder / f"small-{images}" / "photographs", images, images // 3, images // 3)
    return Case("small", pictures, "mobilenetv2", 96, (0, 20), alpha=0.35)


def depths(folder: Path) -> list[Case]:
    """One to six depths."""
    every = (0, 10, 20, 30, 40, 50)
    return [replace(small(folder), name=str(count), depths=every[:count]) for count in (1, 2, 4, 6)]


def epochs(folder: Path) -> list[Case]:
    """Five to twenty epochs a stage."""
    return [replace(small(folder), name=str(count), epochs=count) for count in (5, 10, 20)]


def images(folder: Path) -> list[Case]:
    """200 to 2,000 training images."""
    return [replace(small(folder, count), name=str(count)) for count in (200, 600, 2000)]


CASES: dict[str, Callable[[Path], list[Case]]] = {
    "six": six,
    "augmented": augmented,
    "rates": rates,
    "heads": heads,
    "grocery": grocery,
    "depths": depths,
    "epochs": epochs,
    "images": images,
}


def photographs(folder: Path, train: int, validation: int, test: int) -> str:
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
    return str(folder)
