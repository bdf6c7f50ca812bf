"""The client side: `mmi generate` and what it shares with `mmi demo`."""
