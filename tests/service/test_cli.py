from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from service import cli

TABLE = [module for module, _ in [*cli.COMMANDS.values(), *cli.BENCHES.values()]]


@pytest.mark.parametrize("module", TABLE)
def test_every_command_has_its_module(module: str) -> None:
    # Read, not imported: some of them take seconds to import.
    path = Path(__file__).resolve().parents[2] / (module.replace(".", "/") + ".py")
    functions = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
    assert {"add_arguments", "run"} <= functions


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


def test_commands_of_the_service_need_no_torch() -> None:
    for name in ("demo", "serve", "generate", "gateway", "keys"):
        source = importlib.util.find_spec(cli.COMMANDS[name][0])
        assert source is not None and source.origin is not None
        tree = ast.parse(Path(source.origin).read_text())
        imported = {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}
        assert not any(module and module.startswith(("model", "torch")) for module in imported)


def test_a_bad_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--checkpoint", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"mmi: {tmp_path} is no checkpoint: it has no config.json\n"


def test_the_cache_directory_comes_from_the_environment_or_an_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MMI_CACHE_DIR", "/cache")
    for command in (["compile", "--checkpoint", "model"], ["serve"]):
        parsed = cli.build_parser(command).parse_args(command)
        assert parsed.cache_dir == Path("/cache")
        named = [*command, "--cache-dir", "other"]
        assert cli.build_parser(named).parse_args(named).cache_dir == Path("other")
