"""Recording in MLflow: journals on disk first, sent to a tracking store in order, and read back.

In: what a run or sweep records, and a tracking URI. Out: MLflow runs, pages that show them, and recorded runs as plain
values. Imports neither TensorFlow nor Keras. May use the modules below; knows nothing of training, data or Hydra.
"""
