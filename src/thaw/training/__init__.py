"""Training a network: batches, the feature cache, stages, the fit of one stage, its checkpoints, evaluation.

In: splits, a network, sections of the configuration. Out: trained weights with their history, and probabilities.
Independent of where runs are recorded; reports through Keras callbacks. May use models, data, modalities and the
modules below; never tracking.
"""
