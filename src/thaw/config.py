"""The schema of `conf/`: every key, its type and its range.

Hydra composes, `Config` is built once from the result, and what lies behind it reads attributes of
known types: no `cfg.get(key, default)` anywhere.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from thaw.errors import ThawError
from thaw.names import plain, trimmed

PIXELS = 4096  # of a side; no backbone was trained on more
LONGEST = 100  # characters of a wrong value that are quoted
MANY = 1_000_000  # upper end of counts


def _as_text(value: object) -> object:
    """A number as text: YAML and Hydra parse names such as `2024`."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_name(value: object) -> object:
    text = _as_text(value)
    return trimmed(text) if isinstance(text, str) else text


def _as_location(value: object) -> object:
    text = _as_text(value)
    path = whole(text) if isinstance(text, str) and text else text
    if isinstance(path, str) and path.startswith("~"):
        raise PydanticCustomError("home", "there is no such home folder; give the whole path")
    return path


def whole(path: str) -> str:
    """The absolute path; URLs and home folders of unknown users are returned unchanged."""
    path = os.path.expanduser(path)
    return path if path.startswith("~") or "://" in path else os.path.abspath(path)


Percent = Annotated[float, Field(gt=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=MANY)]
Name = Annotated[str, BeforeValidator(_as_name), Field(min_length=1, max_length=200)]
Location = Annotated[str, BeforeValidator(_as_location)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, types are not guessed, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Backbone(Section):
    """A pretrained network of Keras Applications, by its name there; sizes in px, a side."""

    name: Name
    image_size: int = Field(ge=1, le=PIXELS)
    smallest_size: int = Field(ge=1, le=PIXELS)
    alpha: float | None = Field(default=None, gt=0, le=10)


class Weights(Section):
    """Where the backbone's initial weights come from."""

    source: Literal["auto", "imagenet", "random", "file"]
    path: Location | None = None


class Columns(Section):
    """What the columns of a table are called; `split` may be absent from it."""

    image: Name
    label: Name
    split: Name


class Dataset(Section):
    """The pictures; `image_size` in px a side, null for the backbone's own.

    `layout` says what folders (or values of a column) named like splits mean: `auto`: the splits, where the only
    held-out one is the test split; `validation`: `val/` is for validation, test images are divided from `train/`;
    `pooled`: all images are divided anew; `classes`: they are classes. With `fold`, stratified k-fold over all images;
    `fold` (0-based) is the test fold.
    """

    source: str
    name: Name | None
    path: Location | None = None
    root: Location | None = None
    columns: Columns | None = None
    url: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    image_size: int | None = Field(ge=1, le=PIXELS)
    layout: Literal["auto", "validation", "pooled", "classes"] = "auto"
    images_per_class: Count | None
    on_bad: Literal["error", "skip"]
    max_megapixels: float = Field(gt=0, le=10_000)
    fold: int | None = Field(ge=0)
    folds: int = Field(ge=2, le=1000)

    @model_validator(mode="after")
    def _has_the_fold(self) -> "Dataset":
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(
                f"dataset.fold={self.fold} is not allowed with dataset.folds={self.folds}; give one from 0 to "
                f"{self.folds - 1}"
            )
        return self


class Augmentation(Section):
    """How far a view may stray from its image: shares of a full turn, of the scale, of a side.

    `views` is how many views of each image there are, which epochs go through in turn; null for one an epoch.
    """

    name: Name
    flip: bool
    rotation: Share
    zoom: float = Field(ge=0, lt=1)
    translation: Share
    views: Count | None


class Head(Section):
    """What is put on the backbone; `hidden` is the units of a ReLU layer, 0 for none."""

    pooling: Literal["avg", "max", "flatten"]
    hidden: int = Field(ge=0, le=65_536)
    dropout: float = Field(ge=0, lt=1)


class Stage(Section):
    """One compile and fit."""

    epochs: int = Field(ge=0, le=MANY)
    learning_rate: float = Field(ge=1e-30, le=1000)  # in float32
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"]
    patience: Count | None
    fraction: Percent


class Training(Section):
    """Both stages, and whose weights are tested.

    `evaluate`: `best`: the epoch with the lowest validation loss of all stages; `last_stage`: the best epoch of the
    last stage; `last`: its last epoch. Each stage hands on its best epoch, or with `last` its last one.
    """

    batch_size: int = Field(ge=1, le=65_536)
    class_weights: Literal["balanced"] | None
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"]
    strategy: Literal["auto", "single", "mirrored"]
    evaluate: Literal["best", "last_stage", "last"]
    head: Stage
    finetune: Stage


class Tracking(Section):
    """Where runs are recorded."""

    uri: str | None
    experiment: Name | None
    model: bool
    register_as: Annotated[Name, Field(pattern=r"^[^/:']+$")] | None

    @model_validator(mode="after")
    def _has_a_model(self) -> "Tracking":
        if self.register_as and not self.model:
            raise ValueError(f"tracking.register_as={self.register_as} needs a model; set tracking.model=true")
        return self


class Activations(Section):
    """Whether the frozen part's outputs are kept on disk, how much of them, and in which type."""

    keep: bool
    max_gigabytes: float = Field(ge=0, le=1_000_000)
    dtype: Literal["float32", "float16"]


class Config(Section):
    """Everything that one run is made of."""

    store: Location
    backbone: Backbone
    weights: Weights
    dataset: Dataset
    augmentation: Augmentation
    head: Head
    training: Training
    activations: Activations
    tracking: Tracking
    fraction: Percent
    unfreeze: Annotated[int, Field(ge=0, le=MANY)] | Literal["all"]
    seed: int = Field(ge=0, lt=2**31)
    threads: int | None = Field(ge=1, le=1024)
    rerun: bool
    question: str | None

    @model_validator(mode="after")
    def _trains_something(self) -> "Config":
        if self.image_size < self.backbone.smallest_size:
            raise ValueError(
                f"{self.backbone.name} needs images of {self.backbone.smallest_size} px or more, received "
                f"dataset.image_size={self.image_size}; set dataset.image_size={self.backbone.smallest_size} or larger"
            )
        if self.training.head.epochs == 0 and (self.unfreeze == 0 or self.training.finetune.epochs == 0):
            raise ValueError("no stage has an epoch to train; set training.head.epochs=1 or more")
        return self

    @property
    def image_size(self) -> int:
        """The side in px of the images that the network takes."""
        return self.dataset.image_size or self.backbone.image_size

    @property
    def experiment(self) -> str:
        """The name of the MLflow experiment: the one given, or else that of the dataset."""
        return self.tracking.experiment or self.dataset_name

    @property
    def dataset_name(self) -> str:
        """What to call the dataset: its name, or else the last part of its path."""
        path = Path(self.dataset.path or "").resolve()
        return self.dataset.name or (path.stem if self.dataset.source == "table" else path.name)


class Local(Section):
    """`hydra/launcher=local`."""

    n_jobs: Annotated[int, Field(ge=1, le=1024)] | Literal[-1]


class Slurm(Section):
    """`hydra/launcher=slurm`; whatever else submitit knows is allowed, too."""

    model_config = ConfigDict(extra="allow")

    name: Name
    timeout_min: Count
    requeues: int = Field(ge=0, le=MANY)
    cpus_per_task: int = Field(ge=1, le=1024)
    gpus_per_node: int | None = Field(ge=0, le=1024)
    mem_gb: float | None = Field(gt=0, le=1_000_000)
    slurm_partition: str | None
    slurm_array_parallelism: Count
    slurm_signal_delay_s: int = Field(ge=0, le=MANY)
    slurm_setup: list[str] | None
    slurm_additional_parameters: dict | None


class Ray(Section):
    """`hydra/launcher=ray`."""

    address: str | None = Field(pattern=r"^(auto|local|ray://.+|[^:/]+:\d+)$")
    num_cpus: int = Field(ge=1, le=1024)
    num_gpus: float | None = Field(ge=0, le=1024)
    memory: int | None = Field(ge=1, le=2**50)


def check_launcher(engine: str, settings: dict) -> None:
    """Refuse settings of one of Thaw's launchers that cannot be right.

    Raises:
        ThawError: a key is unknown, or a value has the wrong type or is out of range.
    """
    try:
        {"local": Local, "slurm": Slurm, "ray": Ray}[engine].model_validate(settings)
    except ValidationError as error:
        sentences = dict.fromkeys(_sentence(detail, settings) for detail in error.errors())
        raise ThawError("; ".join(f"hydra.launcher.{each}" for each in sentences)) from error


def check(composed: DictConfig) -> Config:
    """Build the typed configuration from what Hydra composed.

    Raises:
        ThawError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or str(error)
        raise ThawError(f"{key} has no value; give one with {key}=...") from error
    except OmegaConfBaseException as error:
        raise ThawError(f"The configuration does not resolve: {error}") from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        details = error.errors()
        if any(detail["loc"] == ("fraction",) for detail in details):  # the stages only repeat it
            details = [detail for detail in details if detail["loc"][-1] != "fraction" or len(detail["loc"]) == 1]
        sentences = dict.fromkeys(_sentence(detail, values) for detail in details)
        raise ThawError("; ".join(sentences)) from error


def keys(values: dict, prefix: str = "") -> list[str]:
    """Every dotted key of a nested configuration, groups included."""
    found = []
    for name, value in values.items():
        found.append(prefix + name)
        if isinstance(value, dict):
            found += keys(value, f"{prefix}{name}.")
    return found


def nearest(name: str, allowed: list[str]) -> str:
    """A question that names the most similar allowed word, or nothing where none is similar."""
    by_last = {key.rpartition(".")[2]: key for key in reversed(allowed)}
    close = difflib.get_close_matches(name, allowed, n=1) or [
        by_last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1)
    ]
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(detail: dict, values: dict) -> str:
    """One of pydantic's findings in one line, as received, allowed, what to do."""
    return plain(_said(detail, values))


def _said(detail: dict, values: dict) -> str:
    # A union adds the tried type to the place; only the parts that are keys say where.
    known = set(keys(values))
    place = ""
    for part in map(str, detail["loc"]):
        longer = f"{place}.{part}" if place else part
        if longer in known:
            place = longer
    if detail["type"] == "extra_forbidden":
        allowed = sorted(known - {place})
        return f"{place} is no key of the configuration{nearest(place, allowed)}"
    if detail["type"] == "missing":
        return f"{'.'.join(map(str, detail['loc']))} is missing from the configuration"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    received = str(detail["input"])
    received = f"{received[:LONGEST]}…" if len(received) > LONGEST else received
    if place == "unfreeze":
        return f"unfreeze={received} is not allowed; give a number of layers from 0 up, or all"
    if place.endswith("fraction"):
        return f"{place}={received} is not allowed; give a per cent above 0 and up to 100"
    return f"{place}={received} is not allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"
