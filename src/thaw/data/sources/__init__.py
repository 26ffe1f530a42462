"""Where examples come from, one source a module: `listing(dataset, store)` names every example with its class.

A new source is a module here, a line in `thaw.data.dataset.SOURCES`, and a YAML in `conf/dataset/`.
"""
