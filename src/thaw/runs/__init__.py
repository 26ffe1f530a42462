"""One run: its story (`train`), what it knows of its command (`context`), its signature, its record and its outcome.

In: a `Config` and a `Context`. Out: an `Outcome`, and a journal in the store. The only room that sees both training and
tracking; may use everything but sweeps and the command line.
"""
