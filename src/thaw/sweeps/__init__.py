"""Sweeps: from one command to its runs, to the engines that train them, to what they came to.

In: what Hydra composed. Out: a parent run in MLflow, outcomes, a summary. May use everything but the command line.
"""
