"""Figures: numbers come in, matplotlib figures go out, drawn at the size that a page shows them in."""
