"""Stages: which parts of a network train, at which settings and for how long, one after the other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from thaw.config import schema
from thaw.config.values import Unfreeze
from thaw.errors import ThawError
from thaw.models.backbone import Backbone
from thaw.models.units import Depth, resolve
from thaw.training.checkpoints import StageResult


@dataclass(frozen=True)
class Stage:
    """One compile and fit.

    Attributes:
        name: as in `training.stages`.
        number: its position in `training.stages`, from 0.
        depth: which units of the backbone train.
        reached: which units this stage or one before it trains; the network is cut before them.
        first_epoch: the number of its first epoch.
        count: how many epochs it has, unless it stops early; they count on from stage to stage.
        settings: epochs, learning rate and so on.
        evaluate: whose weights the next stage continues from: `best` validation loss or `last` epoch.
        loss: that it minimizes.
        regularisation: what is added to the loss.
        optimizer: how it steps.
        schedule: of the learning rate.
        class_weights: the weight of each class in the training loss; None: all the same.
    """

    name: str
    number: int
    depth: Depth
    reached: Depth
    first_epoch: int
    count: int
    settings: schema.Stage
    evaluate: str
    loss: schema.Loss = field(default_factory=schema.Loss)
    regularisation: schema.Regularisation = field(default_factory=schema.Regularisation)
    optimizer: schema.Optimizer = field(default_factory=schema.Optimizer)
    schedule: schema.Schedule = field(default_factory=schema.Schedule)
    class_weights: tuple[float, ...] | None = None

    @property
    def epochs(self) -> range:
        """The numbers of its epochs, unless it stops early."""
        return range(self.first_epoch, self.first_epoch + self.count)


def plan_stages(
    training: schema.Training,
    unfreeze: Unfreeze,
    loss: schema.Loss,
    regularisation: schema.Regularisation,
    optimizer: schema.Optimizer,
    schedule: schema.Schedule,
    backbone: Backbone,
    examples: Mapping[str, int],
) -> list[Stage]:
    """The stages of a run, in order; `examples` is how many each of `training.stages` trains on.

    A stage trains as deep as its own `unfreeze`, but no deeper than the run's. It is skipped if it has no epochs, or if
    within that limit it would train no more layers than the previous stage.

    Raises:
        ThawError: the backbone has fewer units or blocks.
    """
    architecture, blocks = backbone.name, backbone.blocks
    limit = resolve(unfreeze, blocks, architecture)
    evaluate = "last" if training.evaluate == "last" else "best"
    stages: list[Stage] = []
    first_epoch = 0
    for number, name in enumerate(training.stages):
        settings = training.section(name)
        wanted = limit
        if settings.unfreeze is not None:
            wanted = resolve(settings.unfreeze, blocks, architecture, f"training.{name}.unfreeze")
            if isinstance(limit, tuple) and wanted != 0:
                raise ThawError(
                    f"unfreeze={unfreeze} trains a range of blocks, and training.{name}.unfreeze={settings.unfreeze} "
                    "those at the end; leave one of them out"
                )
        depth = min(wanted, limit, key=_units)
        is_limited = settings.unfreeze is None or _units(wanted) > _units(limit)
        before = stages[-1] if stages else None
        count = settings.epochs
        if settings.steps and settings.epochs:
            count = math.ceil(settings.steps / steps_per_epoch(examples[name], training.batch_size, optimizer))
        if count and not (is_limited and _units(depth) <= _units(before.depth if before else 0)):
            reached = max(depth, before.reached if before else 0, key=_units)
            stages.append(
                Stage(
                    name, number, depth, reached, first_epoch, count, settings, evaluate, loss, regularisation,
                    optimizer, schedule,
                )
            )  # fmt: skip
            first_epoch += count
    return stages


def steps_per_epoch(examples: int, batch_size: int, optimizer: schema.Optimizer) -> int:
    """How many steps of the optimizer an epoch has."""
    return math.ceil(math.ceil(examples / batch_size) / optimizer.accumulate)


def _units(depth: Depth) -> float:
    if isinstance(depth, tuple):
        return depth[1] - depth[0]
    return math.inf if depth == "all" else depth


def selected_stage(results: Mapping[str, StageResult], evaluate: str) -> str:
    """The name of the stage whose weights are tested.

    Args:
        results: by stage, in order.
        evaluate: `best`: the stage with the lowest validation loss, the first of equal ones; else the last stage.
    """
    losses = {name: each.history[each.selected_epoch]["val_loss"] for name, each in results.items()}
    finite = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
    return min(finite, key=finite.__getitem__) if evaluate == "best" and finite else list(results)[-1]
