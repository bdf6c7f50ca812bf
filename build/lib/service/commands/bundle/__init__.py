"""`mmi bundle`: what a machine without a network needs, in parts of a given size."""
