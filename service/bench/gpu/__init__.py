"""`mmi bench gpu`: everything that needs a GPU to measure, in one command."""
