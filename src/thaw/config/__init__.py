"""The configuration: what Hydra composes from `conf/` and the command line becomes one typed, validated `Config`.

In: overrides and YAML. Out: `schema.Config`, or one sentence that says what is wrong. Imports neither TensorFlow nor
MLflow, and nothing above it.
"""
