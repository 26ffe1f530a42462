"""Inference with recorded models: choosing a run and images (`selection`), and classifying them (`classifier`).

In: a recorded run, images. Out: predictions. May use everything but runs, sweeps and the command line.
"""
