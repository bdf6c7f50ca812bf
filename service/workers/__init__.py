"""The consumers of the job streams: one text stage, one image stage."""
