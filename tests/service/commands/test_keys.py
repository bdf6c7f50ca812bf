"""`mmi keys`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from service.commands import keys as keys_command
from service.gateway.auth import Authenticator, hash_key


def test_the_command_keeps_only_the_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file = tmp_path / "keys.json"
    parser = argparse.ArgumentParser()
    keys_command.add_arguments(parser)
    assert keys_command.run(parser.parse_args([str(key_file), "--owner", "alice"])) == 0
    assert keys_command.run(parser.parse_args([str(key_file), "--owner", "bob"])) == 0

    first, second = capsys.readouterr().out.split()
    assert first not in key_file.read_text() and hash_key(second) in key_file.read_text()
    assert Authenticator(key_file).identify(first).owner == "alice"
    assert key_file.stat().st_mode & 0o077 == 0


def test_a_bad_date_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    key_file = tmp_path / "keys.json"
    parser = argparse.ArgumentParser()
    keys_command.add_arguments(parser)
    arguments = [str(key_file), "--owner", "alice"]
    assert keys_command.run(parser.parse_args(arguments)) == 0
    before = key_file.read_text()
    with pytest.raises(ValueError, match="expires"):
        keys_command.run(parser.parse_args([*arguments, "--expires", "tomorrow"]))
    assert key_file.read_text() == before
