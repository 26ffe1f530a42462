"""Recorded models at work: choosing a run and pictures (`selection`), and classifying them (`classifier`).

In: a recorded run, pictures. Out: answers. May use everything but runs, sweeps and the command line.
"""
