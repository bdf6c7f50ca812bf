"""Client of the HTTP API, shared by `mmi generate`, `mmi demo` and `mmi eval --served`."""
