"""The journal of a conversion: a killed one resumes after the last finished file.

`conversion.json` stays in the finished directory and names the source of each file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

JOURNAL = "conversion.json"
OnProgress = Callable[[str, int, int], None]
"""Called with the current file, the bytes done, and the total bytes."""


class Journal:
    """The finished output files of one conversion, each with its source and its hash."""

    def __init__(self, directory: Path, identity: dict[str, Any], done: dict[str, Any]) -> None:
        self._directory = directory
        self._identity = identity
        self._done = done

    @classmethod
    def open(cls, directory: Path, identity: dict[str, Any]) -> Self:
        """Continue the journal of the same conversion, or start over."""
        path = directory / JOURNAL
        identity = json.loads(json.dumps(identity))
        if path.is_file():
            document = json.loads(path.read_text())
            if document["identity"] == identity:
                return cls(directory, identity, document["done"])
            for name in document["done"]:
                (directory / name).unlink(missing_ok=True)
        return cls(directory, identity, {})

    def finished(self, name: str, source: Path | None) -> str | None:
        """The hash of an output file if it is complete and was made from this source."""
        entry, path = self._done.get(name), self._directory / name
        if entry is None or entry["source"] != _fingerprint(source) or not path.is_file():
            return None
        sha256: str = entry["sha256"]
        return sha256 if path.stat().st_size == entry["bytes"] else None

    def record(self, name: str, source: Path | None, sha256: str) -> None:
        """Record an output file as finished, on disk."""
        self._done[name] = {
            "source": _fingerprint(source),
            "bytes": (self._directory / name).stat().st_size,
            "sha256": sha256,
        }
        partial = self._directory / f".{JOURNAL}.partial"
        partial.write_text(
            json.dumps({"identity": self._identity, "done": self._done}, indent=2) + "\n"
        )
        partial.replace(self._directory / JOURNAL)


def _fingerprint(source: Path | None) -> dict[str, Any] | None:
    if source is None:
        return None
    status = source.stat()
    return {"name": source.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
