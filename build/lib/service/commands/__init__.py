"""The subcommands of `mmi` that belong to the service."""
