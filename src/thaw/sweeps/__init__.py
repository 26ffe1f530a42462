"""Sweeps: the runs of one `-m` command, the engines that execute them, and a summary of their outcomes.

In: what Hydra composed. Out: a parent run in MLflow, outcomes, a summary. May use everything but the command line.
"""
