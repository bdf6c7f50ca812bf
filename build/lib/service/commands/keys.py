"""`mmi keys`: make an API key. The key is shown once; only its hash goes into the key file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from service.gateway.auth import ALL_SCOPES, KeyFile, new_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", type=Path, help="key file to add the key to (made if missing)")
    parser.add_argument("--owner", required=True)
    parser.add_argument("--scopes", nargs="+", default=["generate", "read"], choices=ALL_SCOPES)
    parser.add_argument("--requests-per-minute", type=int)
    parser.add_argument("--concurrent-requests", type=int)
    parser.add_argument("--expires", help="last day, as 2027-01-31")


def run(args: argparse.Namespace) -> int:
    """Add a key to the file, which is replaced in one step."""
    key, digest = new_key()
    entry: dict[str, Any] = {"owner": args.owner, "sha256": digest, "scopes": args.scopes}
    for name in ("requests_per_minute", "concurrent_requests", "expires"):
        if (value := getattr(args, name)) is not None:
            entry[name] = value
    known = json.loads(args.file.read_text())["keys"] if args.file.exists() else []
    document = json.dumps({"keys": [*known, entry]}, indent=2)
    KeyFile.model_validate_json(document)
    partial = args.file.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(document + "\n")
    partial.replace(args.file)
    Console().print(key, highlight=False)
    return 0
