"""Events of a request, in order."""
