"""The model's phases of `mmi bench gpu`."""
