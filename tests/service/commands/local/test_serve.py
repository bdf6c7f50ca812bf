from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from service.commands.local.serve import add_arguments, environment_of, run


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(arguments))


def test_without_a_key_file_authentication_is_off() -> None:
    assert environment_of(parsed()) == {"MMI_AUTH": "off"}


def test_a_key_file_switches_authentication_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = environment_of(parsed("--api-keys", "keys.json"))
    assert environment == {"MMI_AUTH": "keys", "MMI_API_KEYS_FILE": str(tmp_path / "keys.json")}


def test_other_machines_need_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parsed("--host", "0.0.0.0")) == 2
    assert "without --api-keys" in capsys.readouterr().out
