"""Figures: numbers and images in, Matplotlib figures out, drawn at the size in which they are displayed.

Imports only the base modules.
"""
