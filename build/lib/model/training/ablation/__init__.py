"""The claim put to the test: the same recipe with and without the synchronizer."""
