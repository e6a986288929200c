"""Procedural worlds and training of the bundled matcher."""
