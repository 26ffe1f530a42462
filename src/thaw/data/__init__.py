"""Labelled examples: where they come from, which of them can be used, and how they are split.

In: the dataset section of the configuration. Out: `dataset.Dataset` with class names and three `splits.Split`s. May use
modalities, the configuration's sections and the modules below; TensorFlow only inside `sources.tfds` and to download.
"""
