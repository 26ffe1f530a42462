"""The parts of one run, whose story is `train.py`. Takes stages, gives reports; may import all but the commands."""
