"""The training loss, averaged correctly over several devices, and the metrics that are shown beside it.

Labels are classes, int (batch,), or where examples are mixed, shares of classes, float32 (batch, classes). Multi-label
ones are float32 (batch, classes) in [0, 1], and each class has a probability of its own.
"""

import keras
import tensorflow as tf

from thaw.config import schema


def build_loss(settings: schema.Loss, class_weights: tuple[float, ...] | None, multi_label: bool = False) -> keras.Loss:
    """The loss in nats, averaged over the examples with weight 1 of a batch.

    Args:
        settings: which loss.
        class_weights: multiply the loss of an example by the weight of its class, or the mean of its classes'.
        multi_label: whether an example may have several classes; its loss is the mean over all classes.
    """
    loss = MultiLabel(settings) if multi_label else Classification(settings, class_weights)
    return MeanOverReplicas(loss) if tf.distribute.has_strategy() else loss


def build_metrics(multi_label: bool = False) -> list[keras.Metric]:
    """Cross-entropy and accuracy, whatever the loss, so that runs compare; `multi_label` as for `build_loss`.

    Keras' own running loss counts every batch as full; a metric of the same name replaces it in the logs.
    """
    of_loss, of_accuracy = (keras.losses.binary_crossentropy, all_right) if multi_label else (crossentropy, accuracy)
    return [keras.metrics.MeanMetricWrapper(fn, name) for fn, name in ((of_loss, "loss"), (of_accuracy, "accuracy"))]


def crossentropy(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Of each example in nats, float32 (batch,)."""
    if _are_shares(labels):
        return keras.losses.categorical_crossentropy(labels, probabilities)
    return keras.losses.sparse_categorical_crossentropy(labels, probabilities)


def accuracy(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """1 for each example whose most probable class is its own, or its largest share; else 0. float32 (batch,)."""
    truth = tf.argmax(labels, 1, tf.int32) if _are_shares(labels) else _classes(labels)
    return tf.cast(tf.argmax(probabilities, 1, tf.int32) == truth, tf.float32)


def all_right(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """1 for each example of which exactly its own classes have a probability of one half or more; else 0."""
    return tf.cast(tf.reduce_all((probabilities >= 0.5) == (labels >= 0.5), axis=1), tf.float32)


class Classification(keras.losses.Loss):
    """Cross-entropy or focal loss, perhaps with smoothed labels or weights of classes."""

    def __init__(self, settings: schema.Loss, class_weights: tuple[float, ...] | None):
        super().__init__(reduction="mean_with_sample_weight")
        self.settings, self.class_weights = settings, class_weights

    def call(self, y_true, y_pred):
        smoothing = self.settings.label_smoothing
        is_plain = self.settings.name == "crossentropy" and not smoothing
        if is_plain and not self.class_weights:
            return crossentropy(y_true, y_pred)
        shares = y_true if _are_shares(y_true) else tf.one_hot(_classes(y_true), y_pred.shape[-1])
        if is_plain:
            losses = crossentropy(y_true, y_pred)
        elif self.settings.name == "crossentropy":
            losses = keras.losses.categorical_crossentropy(shares, y_pred, label_smoothing=smoothing)
        else:
            losses = keras.losses.categorical_focal_crossentropy(
                shares, y_pred, alpha=1.0, gamma=self.settings.gamma, label_smoothing=smoothing
            )
        return losses * tf.linalg.matvec(shares, tf.constant(self.class_weights)) if self.class_weights else losses


class MultiLabel(keras.losses.Loss):
    """Binary cross-entropy or focal loss, the mean over classes, perhaps with smoothed labels."""

    def __init__(self, settings: schema.Loss):
        super().__init__(reduction="mean_with_sample_weight")
        self.settings = settings

    def call(self, y_true, y_pred):
        smoothing = self.settings.label_smoothing
        if self.settings.name == "crossentropy":
            return keras.losses.binary_crossentropy(y_true, y_pred, label_smoothing=smoothing)
        return keras.losses.binary_focal_crossentropy(
            y_true, y_pred, gamma=self.settings.gamma, label_smoothing=smoothing
        )


class MeanOverReplicas(keras.losses.Loss):
    """The mean over a global batch, where each replica would average over its own shard.

    Shards may contain different numbers of padding examples, which have weight 0.
    """

    def __init__(self, mean: keras.losses.Loss):
        super().__init__()
        self.mean = mean

    def __call__(self, y_true, y_pred, sample_weight=None):
        replicas = tf.distribute.get_replica_context()
        if replicas is None:  # Keras only infers shapes
            return self.mean(y_true, y_pred, sample_weight)
        here = tf.reduce_sum(sample_weight)
        share = here / replicas.all_reduce(tf.distribute.ReduceOp.SUM, here)
        # Keras divides by the number of devices before it sums their gradients.
        return self.mean(y_true, y_pred, sample_weight) * share * replicas.num_replicas_in_sync


def _are_shares(labels: tf.Tensor) -> bool:
    """Whether labels are shares of classes, and not classes."""
    return len(labels.shape) == 2 and labels.shape[-1] != 1


def _classes(labels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reshape(labels, [-1]), tf.int32)
