"""`mmi bench gateway`: what gateway, queue and worker add to an engine."""
