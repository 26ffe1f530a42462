"""The training loss: cross-entropy with optional class weights, averaged correctly over several devices."""

import keras
import tensorflow as tf


def build_loss(class_weights: tuple[float, ...] | None) -> keras.Loss:
    """Cross-entropy in nats, averaged over the examples with weight 1 of a batch."""
    plain = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    loss = ClassWeighted(class_weights) if class_weights else plain
    return MeanOverReplicas(loss) if tf.distribute.has_strategy() else loss


class ClassWeighted(keras.losses.Loss):
    """Cross-entropy weighted by the true class of each example."""

    def __init__(self, class_weights: tuple[float, ...]):
        super().__init__(reduction="mean_with_sample_weight")
        self.class_weights = tf.constant(class_weights, tf.float32)

    def call(self, y_true, y_pred):
        plain = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        return plain * tf.gather(self.class_weights, tf.cast(tf.reshape(y_true, [-1]), tf.int32))


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
