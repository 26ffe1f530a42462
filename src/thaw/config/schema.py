"""The schema of `conf/`: every key with its type, range and default.

`Config()` is the default configuration, so that tests, benchmarks and notebooks need no Hydra. Everything downstream
reads typed attributes; there is no `cfg.get(key, default)` anywhere.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from thaw.config.values import (
    LARGEST_COUNT,
    LARGEST_IMAGE,
    Blocks,
    Count,
    Depth,
    Location,
    Name,
    Penalty,
    Percent,
    Section,
    Share,
    Unfreeze,
)
from thaw.errors import nearest
from thaw.workspace import DEFAULT

RESERVED = frozenset(("command", "error", "git_clean", "journal", "kept_stage", "kind", "note", "question", "stages"))


class Backbone(Section):
    """A pretrained network of Keras Applications, under its name there; sizes in px a side."""

    name: Name = "EfficientNetB0"
    image_size: int = Field(default=224, ge=1, le=LARGEST_IMAGE)
    smallest_size: int = Field(default=32, ge=1, le=LARGEST_IMAGE)
    alpha: float | None = Field(default=None, gt=0, le=10)


class Weights(Section):
    """The backbone's initial weights."""

    source: Literal["auto", "imagenet", "random", "file"] = "auto"
    path: Location | None = None


class Columns(Section):
    """Column names of a table; the `split` column is optional. `separator`: of classes, with `dataset.multi_label`."""

    image: Name = "file"
    label: Name = "class"
    split: Name = "split"
    separator: str = Field(default="|", min_length=1, max_length=10)


class Dataset(Section):
    """The labeled images; `image_size` in px a side, null for the backbone's own.

    `layout` is the meaning of folders (or values of a column) named like splits. `auto`: they are the splits, and a
    single held-out split is the test split; `validation`: `val/` is the validation split, and test images are divided
    from `train/`; `pooled`: all images are divided again; `classes`: they are classes. With `fold`: stratified k-fold
    over all images, where `fold` (0-based) is the test fold. With `multi_label` an image has any number of classes.
    """

    source: str = "digits"
    name: Name | None = None
    path: Location | None = None
    root: Location | None = None
    columns: Columns | None = None
    multi_label: bool = False
    url: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    image_size: int | None = Field(default=None, ge=1, le=LARGEST_IMAGE)
    layout: Literal["auto", "validation", "pooled", "classes"] = "auto"
    images_per_class: Count | None = None
    on_bad: Literal["error", "skip"] = "error"
    max_megapixels: float = Field(default=100.0, gt=0, le=10_000)
    fold: int | None = Field(default=None, ge=0)
    folds: int = Field(default=5, ge=2, le=1000)

    @model_validator(mode="after")
    def _has_a_table_of_several_labels(self) -> "Dataset":
        if self.multi_label and self.source != "table":
            raise ValueError(
                f"dataset.multi_label=true takes a table, received dataset.source={self.source}; give dataset=table"
            )
        return self

    @model_validator(mode="after")
    def _has_the_fold(self) -> "Dataset":
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(
                f"dataset.fold={self.fold} is not allowed with dataset.folds={self.folds}; give one from 0 to "
                f"{self.folds - 1}"
            )
        return self


class Augmentation(Section):
    """How far a view may differ from its image: shares of a full turn, of the scale, of a side.

    `crop` is the smallest share of the area that is shown, 0: no crop; `operations` is how many of RandAugment's a view
    gets, of `magnitude` 0 to 30, null: drawn as in TrivialAugment; `colour` is the strength of changes in brightness,
    contrast, saturation and hue; `erasing` the share of views in which a box is noise. `mixup` and `cutmix` are the
    concentrations of the Beta distribution of shares in which views of two images are mixed, 0: not.

    `views` is the number of views of each image, which epochs cycle through; null: a new view every epoch.
    """

    name: Name = "none"
    flip: bool = False
    rotation: Share = 0.0
    zoom: float = Field(default=0.0, ge=0, lt=1)
    translation: Share = 0.0
    crop: Share = 0.0
    operations: int = Field(default=0, ge=0, le=10)
    magnitude: int | None = Field(default=None, ge=0, le=30)
    colour: Share = 0.0
    erasing: Share = 0.0
    mixup: float = Field(default=0.0, ge=0, le=100)
    cutmix: float = Field(default=0.0, ge=0, le=100)
    views: Count | None = None


class Head(Section):
    """The layers on top of the backbone; `hidden` is the width of a ReLU layer, 0 for none."""

    pooling: Literal["avg", "max", "flatten"] = "avg"
    hidden: int = Field(default=0, ge=0, le=65_536)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Finish(Section):
    """What is tried on trained weights without another training; what validation accepts is a run of its own.

    `views`: the mean over so many views of an image; `temperature`: probabilities at the temperature that suits
    validation; `wise_ft`: weights between the first stage's and the fine-tuned ones; `soup`: the mean of the weights of
    runs of a sweep.
    """

    name: Name = "none"
    views: Literal[0] | Annotated[int, Field(ge=2, le=1000)] = 0
    temperature: bool = False
    wise_ft: bool = False
    soup: bool = False


class Resolution(Section):
    """The sizes that stages train at, as shares of the size that is tested: the last stage at the last share and so on.

    Stages before those of the list have its first share.
    """

    name: Name = "same"
    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0], min_length=1, max_length=100)

    def share(self, place: int, count: int) -> float:
        """Of the stage at a place, from 0, of a run with so many."""
        return self.shares[max(0, len(self.shares) - count + place)]


class Schedule(Section):
    """The shape of the learning rate within a stage, as a share of the stage's `learning_rate`.

    `warmup` is a number of steps or a percentage of the stage's; `start` and `end` are shares at the first step and
    after the last; `drops` are percentages of the steps after which the rate is multiplied by `factor`.
    """

    name: Literal["constant", "cosine", "linear", "step", "one_cycle"] = "constant"
    warmup: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] | Annotated[str, Field(pattern=r"^\d{1,2}(\.\d+)?%$")] = 0
    start: float = Field(default=0.04, gt=0, le=1)
    end: float = Field(default=0.0, ge=0, le=1)
    drops: list[Annotated[float, Field(gt=0, lt=100)]] = Field(default=[30.0, 60.0, 90.0])
    factor: float = Field(default=0.1, gt=0, lt=1)

    def warmup_steps(self, steps: int) -> int:
        """How many of a stage's steps the rate rises for."""
        if isinstance(self.warmup, str):
            return round(float(self.warmup.rstrip("%")) / 100 * steps)
        return min(self.warmup, steps)

    @property
    def is_constant(self) -> bool:
        """Whether the rate never changes."""
        return self.name == "constant" and self.warmup_steps(LARGEST_COUNT) == 0


class Loss(Section):
    """What is minimized: cross-entropy, or the focal loss, in which an example of probability p counts (1 - p)^gamma.

    `label_smoothing` is the share of each label that all classes divide among them.
    """

    name: Literal["crossentropy", "focal"] = "crossentropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    gamma: float = Field(default=2.0, ge=0, le=100)


class Regularisation(Section):
    """A penalty of `strength / 2` times the sum of the squares of the kernels that train.

    `towards`: of the backbone's kernels themselves, or of their differences from the `initial` weights of the run.
    """

    name: Name = "none"
    backbone: Penalty = 0.0
    head: Penalty = 0.0
    towards: Literal["zero", "initial"] = "zero"

    @property
    def is_off(self) -> bool:
        """Whether nothing is added to the loss."""
        return not (self.backbone or self.head)


class Optimizer(Section):
    """How gradients become steps, in all stages.

    `weight_decay` is decoupled, and applies to kernels alone. `clip_norm` is the largest norm of all gradients taken
    together. A step takes the gradients of `accumulate` batches, in which every example has the same weight. `ema` is
    the momentum of an average of the weights, which is validated and kept in their place. Each block below the head has
    `layer_decay` times the learning rate of the one above, and the head has `head_rate` times the stage's.
    """

    name: Literal["adam", "adamw", "sgd", "rmsprop", "lion"] = "adam"
    weight_decay: Share = 0.0
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    clip_norm: float | None = Field(default=None, gt=0, le=1_000_000)
    accumulate: Count = 1
    ema: float | None = Field(default=None, gt=0, lt=1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    head_rate: float = Field(default=1.0, gt=0, le=1_000_000)

    @model_validator(mode="after")
    def _has_what_it_uses(self) -> "Optimizer":
        if self.name != "sgd" and (self.momentum or self.nesterov):
            key = "momentum" if self.momentum else "nesterov"
            raise ValueError(
                f"optimizer.{key} is a setting of optimizer=sgd, received optimizer={self.name}; leave it out"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov=true needs a momentum; give optimizer.momentum=0.9")
        if self.name == "adam" and self.weight_decay:
            raise ValueError(
                f"optimizer.weight_decay={self.weight_decay:g} needs another optimizer; give optimizer=adamw"
            )
        return self


class Stage(Section):
    """One compile and fit; `fraction` and `unfreeze` are null for those of the run, whose depth is also the limit.

    `steps`, of the optimizer, take the place of `epochs` unless these are 0: as many whole epochs as have so many.
    """

    epochs: int = Field(default=5, ge=0, le=LARGEST_COUNT)
    steps: Count | None = None
    learning_rate: float = Field(default=1e-3, ge=1e-30, le=1000)  # in float32
    patience: Count | None = None
    fraction: Percent | None = None
    unfreeze: Depth | None = None


class Training(Section):
    """The stages, and whose weights are tested. `stages` names them in order; each has a section of its own.

    `evaluate`: `best`: the epoch with the lowest validation loss of all stages; `last_stage`: the best epoch of the
    last stage; `last`: its last epoch. Each stage continues from the best epoch of the stage before (`last`: its last).
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Stage]

    stages: list[Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,30}$")]] = Field(
        default=["head", "finetune"], min_length=1, max_length=100
    )
    batch_size: int = Field(default=32, ge=1, le=65_536)
    class_weights: Literal["balanced"] | None = None
    sampling: Literal["balanced"] | None = None
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    strategy: Literal["auto", "single", "mirrored"] = "auto"
    evaluate: Literal["best", "last_stage", "last"] = "best"
    head: Stage = Stage(unfreeze=0)
    finetune: Stage = Stage(learning_rate=1e-4)

    @model_validator(mode="before")
    @classmethod
    def _has_no_other_keys(cls, values: object) -> object:
        if isinstance(values, dict):
            known = list(cls.model_fields)
            for key, value in values.items():
                if key not in known and not isinstance(value, dict | Stage):
                    raise ValueError(f"training.{key} is not a key of the configuration{nearest(str(key), known)}")
        return values

    @model_validator(mode="after")
    def _balances_once(self) -> "Training":
        if self.class_weights and self.sampling:
            raise ValueError(
                "training.class_weights=balanced and training.sampling=balanced balance classes twice; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _has_a_section_for_each_stage(self) -> "Training":
        sections = [*self.__pydantic_extra__, "head", "finetune"]
        for name in self.stages:
            if name in RESERVED:
                raise ValueError(f"training.stages names {name}, which MLflow's tags use otherwise; give another name")
            if name not in sections:
                raise ValueError(
                    f"training.stages names {name}, which has no section{nearest(name, sections)}; give "
                    f"+training.{name}.epochs=5, or one of {', '.join(sorted(sections))}"
                )
        if len(set(self.stages)) < len(self.stages):
            raise ValueError(f"training.stages={self.stages} names a stage twice; give each a name of its own")
        return self

    def section(self, name: str) -> Stage:
        """The settings of a stage."""
        return getattr(self, name)


class Tracking(Section):
    """Where runs are recorded."""

    uri: str | None = None
    experiment: Name | None = None
    model: bool = True
    register_as: Annotated[Name, Field(pattern=r"^[^/:']+$")] | None = None

    @model_validator(mode="after")
    def _has_a_model(self) -> "Tracking":
        if self.register_as and not self.model:
            raise ValueError(f"tracking.register_as={self.register_as} needs a model; set tracking.model=true")
        return self


class Activations(Section):
    """The feature cache: whether the outputs of the frozen layers are kept on disk, how much of them, as which type."""

    keep: bool = True
    max_gigabytes: float = Field(default=20.0, ge=0, le=1_000_000)
    dtype: Literal["float32", "float16"] = "float32"


class Config(Section):
    """Everything that one run depends on."""

    store: Location = str(DEFAULT)
    backbone: Backbone = Backbone()
    weights: Weights = Weights()
    dataset: Dataset = Dataset(name="digits", image_size=75)
    augmentation: Augmentation = Augmentation()
    head: Head = Head()
    loss: Loss = Loss()
    regularisation: Regularisation = Regularisation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training = Training.model_validate({})
    resolution: Resolution = Resolution()
    finish: Finish = Finish()
    activations: Activations = Activations()
    tracking: Tracking = Tracking()
    fraction: Percent = 100.0
    unfreeze: Unfreeze = 0
    reinit: Literal[0] | Blocks = 0
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int | None = Field(default=None, ge=1, le=1024)
    rerun: bool = False
    find_rate: bool = False
    question: str | None = None

    @model_validator(mode="after")
    def _trains_something(self) -> "Config":
        if self.image_size < self.backbone.smallest_size:
            raise ValueError(
                f"{self.backbone.name} needs images of {self.backbone.smallest_size} px or more, received "
                f"dataset.image_size={self.image_size}; set dataset.image_size={self.backbone.smallest_size} or larger"
            )
        if self.head.pooling == "flatten" and min(self.resolution.shares) < 1:
            raise ValueError(
                f"resolution={self.resolution.name} trains at several sizes, and head.pooling=flatten takes one; give "
                "head.pooling=avg or resolution=same"
            )
        balanced = [key for key in ("class_weights", "sampling") if getattr(self.training, key)]
        if self.dataset.multi_label and balanced:
            raise ValueError(
                f"training.{balanced[0]}=balanced takes one class an image, dataset.multi_label=true gives several; "
                "leave one out"
            )
        sections = [self.training.section(name) for name in self.training.stages]
        if self.unfreeze == 0 and not any(each.unfreeze == 0 for each in sections):
            raise ValueError(
                f"unfreeze=0 trains the head alone, and no stage of training.stages=[{','.join(self.training.stages)}] "
                "does; give unfreeze=1block or more, or training.stages=[head]"
            )
        if not any(each.epochs and (each.unfreeze == 0 or self.unfreeze != 0) for each in sections):
            raise ValueError(f"no stage has an epoch to train; set training.{self.training.stages[0]}.epochs=1 or more")
        return self

    @property
    def image_size(self) -> int:
        """The side in px of the images that the network takes."""
        return self.dataset.image_size or self.backbone.image_size

    @property
    def experiment(self) -> str:
        """The name of the MLflow experiment: the one given, or that of the dataset."""
        return self.tracking.experiment or self.dataset_name

    @property
    def dataset_name(self) -> str:
        """The name of the dataset: the one given, or the last part of its path."""
        path = Path(self.dataset.path or "").resolve()
        return self.dataset.name or (path.stem if self.dataset.source == "table" else path.name)
