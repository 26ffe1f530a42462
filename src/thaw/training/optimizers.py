"""Optimizers of Keras, and what they lack for fine-tuning: rates by depth, exact accumulation, averages of the weights.

To add one of Keras, add its class to `CLASSES` and its name to `thaw.config.schema.Optimizer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from thaw.config import schema
from thaw.errors import ThawError
from thaw.models.units import Block


class Adam(keras.optimizers.Adam):
    """Keras' Adam, computed by one operation for each variable in place of a dozen."""

    def update_step(self, gradient, variable, learning_rate):
        index, dtype = self._get_variable_index(variable), variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, dtype), step),
            lr=tf.cast(learning_rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, dtype),
        )


CLASSES: dict[str, type[keras.optimizers.Optimizer]] = {
    "adam": Adam,
    "adamw": Adam,
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}


def build_optimizer(
    settings: schema.Optimizer,
    learning_rate: float,
    factors: Mapping[str, float] | None = None,
    penalties: Mapping[str, float] | None = None,
    statistics: Sequence[keras.Variable] = (),
) -> keras.Optimizer:
    """An optimizer, not built yet.

    Args:
        settings: which one, and how it steps.
        learning_rate: that factors multiply.
        factors: of the learning rate, by the path of a variable; 1 for those left out.
        penalties: half of each, times the squared distance of a kernel from its target, is added to the loss.
        statistics: variables that training changes without gradients, to be averaged as well.
    """
    base = CLASSES[settings.name]
    kind = type(base.__name__, (_FineTuning, base), {})
    options = {"momentum": settings.momentum, "nesterov": settings.nesterov} if settings.name == "sgd" else {}
    optimizer = kind(learning_rate, weight_decay=None, global_clipnorm=settings.clip_norm, **options)
    optimizer.plan = _Plan(settings, factors or {}, penalties or {}, list(statistics))
    return optimizer


def check_devices(settings: schema.Optimizer, devices: int) -> None:
    """Refuse what needs all gradients of a step at one place.

    Raises:
        ThawError: there are several devices.
    """
    needing = {"clip_norm": settings.clip_norm, "ema": settings.ema, "accumulate": settings.accumulate > 1}
    if devices > 1 and (keys := [key for key, value in needing.items() if value]):
        raise ThawError(
            f"optimizer.{keys[0]}={getattr(settings, keys[0]):g} needs a single device, and training.strategy uses "
            f"{devices}; give training.strategy=single"
        )


def rate_factors(settings: schema.Optimizer, blocks: Sequence[Block]) -> tuple[list[float], float]:
    """The learning rate of each block, and that of the head, as multiples of the stage's."""
    return [settings.layer_decay ** (len(blocks) - place) for place in range(len(blocks))], settings.head_rate


def set_targets(model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Set what penalized kernels are drawn to, by path; those left out are drawn to zero."""
    for path, target in _inner(model.optimizer).plan.targets.items():
        target.assign(values.get(path, np.zeros(target.shape, np.float32)))


def use_averages(model: keras.Model) -> None:
    """Set the weights of a model that trains with `ema` to their averages."""
    optimizer = _inner(model.optimizer)
    for variable, average in zip(optimizer.plan.averaged, optimizer.averages, strict=True):
        variable.assign(average)


class ValidateAverages(keras.callbacks.Callback):
    """Has the averages in the model from validation until the end of the epoch, where the weights come back.

    Callbacks before it see the averages at the end of an epoch, those after it the weights.
    """

    def on_test_begin(self, logs=None):
        self.weights = [variable.numpy() for variable in _inner(self.model.optimizer).plan.averaged]
        use_averages(self.model)

    def on_epoch_end(self, epoch, logs=None):
        for variable, value in zip(_inner(self.model.optimizer).plan.averaged, self.weights, strict=True):
            variable.assign(value)


class Accumulate(keras.callbacks.Callback):
    """Tells the optimizer how much of a step each batch is.

    Args:
        settings: of the optimizer.
        examples: of an epoch, the last batch of which may have fewer.
        batch_size: in examples.
    """

    def __init__(self, settings: schema.Optimizer, examples: int, batch_size: int):
        super().__init__()
        self.batches, self.examples, self.batch_size = settings.accumulate, examples, batch_size

    def on_train_batch_begin(self, batch, logs=None):
        optimizer = _inner(self.model.optimizer)
        first = batch // self.batches * self.batches
        ends = [min(each * self.batch_size, self.examples) for each in (first, batch, batch + 1, first + self.batches)]
        optimizer.share.assign((ends[2] - ends[1]) / (ends[3] - ends[0]))
        optimizer.ends.assign(ends[2] == ends[3])


@dataclass
class _Plan:
    """What an optimizer knows of the model. Not its attributes, as it would take the model's variables for its own.

    Attributes:
        settings: as configured.
        factors: of the learning rate, by the path of a variable.
        penalties: of kernels, by path.
        averaged: the variables that averages are taken of.
        scales: the factor of each variable with gradients.
        targets: what penalized kernels are drawn to, by path.
    """

    settings: schema.Optimizer
    factors: Mapping[str, float]
    penalties: Mapping[str, float]
    averaged: list[keras.Variable]
    scales: list[float] = field(default_factory=list)
    targets: dict[str, tf.Variable] = field(default_factory=dict)


class _FineTuning(keras.optimizers.Optimizer):
    """What comes before the step of a class of Keras, and after it.

    Keras' own decay and steps know no factors of the rate; its accumulation gives a padded batch the weight of a full
    one, and its averages move with each batch and overwrite the weights at the end of `fit`.
    """

    plan: _Plan

    def build(self, variables):
        super().build(variables)
        plan = self.plan
        plan.averaged = [*variables, *plan.averaged]
        plan.scales = [plan.factors.get(variable.path, 1.0) for variable in variables]
        if plan.settings.accumulate > 1:
            self.sums = self.add_optimizer_variables(variables, "sum")
            self.filled = self.add_variable((), name="filled")  # share of the step that `sums` have
            self.share, self.ends = tf.Variable(1.0), tf.Variable(True)
        for variable in variables:
            if plan.penalties.get(variable.path) and len(variable.shape) > 1:
                plan.targets[variable.path] = tf.Variable(tf.zeros(variable.shape))
        if plan.settings.ema:
            self.averages = self.add_optimizer_variables(plan.averaged, "average")

    def apply(self, grads, trainable_variables=None):
        if self.plan.settings.accumulate == 1:
            self._step(grads, trainable_variables)
            return
        self.filled.assign_add(self.share)
        for total, gradient in zip(self.sums, grads, strict=True):
            total.assign_add(tf.cast(self.share, total.dtype) * tf.cast(gradient, total.dtype))

        def step() -> None:
            self._step([total / tf.cast(self.filled, total.dtype) for total in self.sums], trainable_variables)
            for variable in (self.filled, *self.sums):
                variable.assign(tf.zeros_like(variable))

        # Mixed precision leaves out a batch whose gradients overflow; the others of the step count for it.
        tf.cond(self.ends, step, lambda: None)

    def update_step(self, gradient, variable, learning_rate):
        settings = self.plan.settings
        scale = self.plan.scales[self._get_variable_index(variable)]
        if scale != 1:
            learning_rate = learning_rate * scale
        if settings.weight_decay and len(variable.shape) > 1:  # kernels alone
            variable.assign_sub(variable * tf.cast(learning_rate * settings.weight_decay, variable.dtype))
        super().update_step(gradient, variable, learning_rate)

    def _step(self, gradients, variables) -> None:
        """A step of the optimizer, and of the averages, which begin as the weights after the first one."""
        done = tf.cast(self.iterations, tf.float32)
        if self.plan.targets:
            gradients = [self._penalized(*each) for each in zip(gradients, variables, strict=True)]
        super().apply(gradients, variables)
        if self.plan.settings.ema:
            momentum = tf.minimum(self.plan.settings.ema, done / (done + 9))  # as tf.train.ExponentialMovingAverage
            for variable, average in zip(self.plan.averaged, self.averages, strict=True):
                average.assign(momentum * average + (1 - momentum) * variable)

    def _penalized(self, gradient, variable):
        """The gradient with that of the penalty; devices add up theirs."""
        if variable.path not in self.plan.targets:
            return gradient
        penalty = self.plan.penalties[variable.path] / tf.distribute.get_strategy().num_replicas_in_sync
        return gradient + penalty * (variable - self.plan.targets[variable.path])


def _inner(optimizer: keras.Optimizer) -> Any:
    """The optimizer that steps, which mixed precision wraps."""
    return getattr(optimizer, "inner_optimizer", optimizer)
