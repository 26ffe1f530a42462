"""Sources of backbones, one module per library: `build` returns a `Backbone` with its weights loaded.

Random weights are completed by `thaw.models.weights.initialize`.
"""
