"""RGB images: `decode` reads and checks files, `augment` makes views, `explain` finds where an answer comes from.

`modality.Images` is what networks, batches and records ask.
"""
