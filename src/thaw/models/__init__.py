"""Networks: a pretrained backbone as an ordered list of units and blocks, a head on top, and where to cut between them.

In: sections of the configuration, a modality. Out: `network.Network` and its `cuts.Cut`s. Keras' private attributes and
the names of layers are known to `graph` alone. May use modalities and the modules below; never tracking.
"""
