"""What trains several runs at once: processes of this machine, jobs of SLURM, tasks of Ray.

Each module has `Settings`, the keys of its launcher, and `run`, which takes calls without arguments and yields, as each
call ends, its number and what it returned, or the exception that says how its process was lost. Engines know nothing of
Hydra or of runs. Closing the iterator cancels the remaining calls.
"""
