"""Engines that execute runs in parallel: local processes, SLURM jobs, Ray tasks.

Each module has `Settings`, the keys of its launcher, and `run`, which takes callables without arguments and yields, as
each one ends, its number and its result, or an exception that says how its process died. Engines are independent of
Hydra and of runs. Closing the iterator cancels the remaining calls.
"""
