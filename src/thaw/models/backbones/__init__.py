"""Where architectures come from, one library a module: `build` gives a `Backbone` whose weights are still to be loaded,
except for those that the library downloads with the architecture.
"""
