"""MMFS: deformable cross-attention over the maps of all earlier images."""
