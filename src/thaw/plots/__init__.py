"""Figures: numbers and pictures come in, Matplotlib figures go out, drawn at the size that a page shows them in.

May use the modules at the bottom only.
"""
