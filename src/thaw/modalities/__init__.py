"""What an example is: how it is read, checked, turned into a tensor, augmented, shown and explained.

In: files or arrays. Out: decoded examples, tensors, pictures. Images are the first modality. `decode` modules import
neither TensorFlow nor Keras, so that datasets are checked without them. May import the configuration's sections.
"""
