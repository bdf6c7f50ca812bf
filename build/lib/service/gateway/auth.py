"""API keys: who a caller is, and what they may do.

The key file holds only hashes:

    {"keys": [{"owner": "alice", "sha256": "<hash of the key>", "scopes": ["generate", "read"],
               "requests_per_minute": 60, "concurrent_requests": 8, "expires": "2027-01-31"}]}

Several keys may belong to one owner, so that keys can be rotated: add the new key, then remove the
old one. The file is read again when it changes. Keys are long random strings (made by `mmi keys`),
for which one round of SHA-256 is enough; all hashes are compared, each in constant time.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import AuthenticationFailed, PermissionDenied, StartupError

Scope = Literal["generate", "read"]
ALL_SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "mmi_"
_CHECK_SECONDS = 2.0
_MAX_KEY_LENGTH = 512


class KeyFileError(StartupError):
    """The key file is missing or malformed."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request. A limit of None is no limit."""

    owner: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None

    def require(self, scope: Scope) -> None:
        """Check that the key has `scope`.

        Raises:
            PermissionDenied: it does not.
        """
        if scope not in self.scopes:
            raise PermissionDenied


ANYONE = Caller("anonymous", frozenset(ALL_SCOPES))


class KeyEntry(BaseModel):
    """One key of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    owner: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = ("generate", "read")
    requests_per_minute: int | None = Field(default=None, ge=1)
    concurrent_requests: int | None = Field(default=None, ge=1)
    expires: datetime.date | None = None

    def caller(self) -> Caller:
        """The caller that this key stands for."""
        limits = (self.requests_per_minute, self.concurrent_requests)
        return Caller(self.owner, frozenset(self.scopes), *limits)


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[KeyEntry, ...]


def new_key() -> tuple[str, str]:
    """A new key and its hash. Only the hash is stored."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """The hash that the key file holds of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class Authenticator:
    """Finds the caller of a key. Without a key file, authentication is off."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys: tuple[KeyEntry, ...] = ()
        self._stamp: tuple[int, int] | None = None
        self._checked = 0.0
        if path is not None:
            self._load(path)

    def identify(self, key: str | None) -> Caller:
        """The caller whose key this is.

        Raises:
            AuthenticationFailed: there is no key, or it is unknown or expired.
        """
        if self._path is None:
            return ANYONE
        self._refresh(self._path)
        if key is None or not 1 <= len(key) <= _MAX_KEY_LENGTH:
            raise AuthenticationFailed
        digest = hash_key(key.strip())
        matches = [entry for entry in self._keys if hmac.compare_digest(entry.sha256, digest)]
        today = datetime.datetime.now(datetime.UTC).date()
        for entry in matches:
            if entry.expires is None or today <= entry.expires:
                return entry.caller()
        raise AuthenticationFailed

    def _refresh(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            status = path.stat()
        except OSError:
            # A file that is missing for a moment, as while a mounted secret is replaced, must not
            # lock everybody out: the keys read before stay valid.
            return
        if (status.st_mtime_ns, status.st_ino) != self._stamp:
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            status = path.stat()
            self._keys = KeyFile.model_validate_json(path.read_bytes()).keys
        except OSError as error:
            raise KeyFileError(f"cannot read the key file {path}") from error
        except ValidationError as error:
            if self._stamp is None:
                raise KeyFileError(f"{path} is not a key file: {error}") from error
            # Someone is editing the file: keep the last valid keys.
            return
        self._stamp = (status.st_mtime_ns, status.st_ino)
        self._checked = time.monotonic()
