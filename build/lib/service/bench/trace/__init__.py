"""`mmi bench trace`: where the time of one story goes."""
