"""Comparing recorded runs: variants, paired tests, and the text, page and note that report them.

In: recorded runs from `tracking.reader`. Out: a `comparison.Comparison` and its renderings. Imports neither TensorFlow
nor Keras. May use tracking, plots, statistics and the modules below.
"""
