"""Thaw: transfer-learning experiments composed with Hydra, trained with Keras, recorded in MLflow."""
