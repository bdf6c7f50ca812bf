"""The command line's table, and the client's small parts."""

from __future__ import annotations

import ast
import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from service import cli
from service.client.page import save_answer
from service.client.stream import Answer, Given, content_of, parse_events, read_arguments
from service.client.terminal import TerminalView

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


def test_arguments_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cat.png").write_bytes(b"png")
    Path("odd").write_bytes(b"png")

    parts = read_arguments(["look:", "cat.png", "missing.png", "@odd"])

    assert [part.text or part.path for part in parts] == [
        "look:", Path("cat.png"), "missing.png", Path("odd"),
    ]  # fmt: skip
    assert [part["type"] for part in content_of(parts)] == ["text", "image", "text", "image"]


def test_several_answers_are_kept_apart_shown_and_saved(tmp_path: Path) -> None:
    picture = {"type": "image.done", "choice": 1, "index": 1, "sha256": "0", "mime": "image/png"}
    events: list[dict[str, Any]] = [
        {"type": "response.created"},
        {"type": "part.start", "choice": 1, "index": 0, "kind": "text"},
        {"type": "part.start", "choice": 0, "index": 0, "kind": "text"},
        {"type": "text.delta", "choice": 0, "index": 0, "text": "a cat"},
        {"type": "text.delta", "choice": 1, "index": 0, "text": "a dog"},
        {"type": "part.start", "choice": 1, "index": 1, "kind": "image"},
        picture | {"width": 8, "height": 8, "seed": 3},
        {"type": "choice.completed", "choice": 1},
        {"type": "choice.incomplete", "choice": 0, "reason": "max_tokens"},
        {"type": "usage", "output_tokens": 4},
        {"type": "response.incomplete", "reason": "max_tokens"},
    ]
    console = Console(file=io.StringIO(), width=80)
    answer, view = Answer(), TerminalView(console)
    for event in events:
        answer.add(event)
        view.show(event)
    pictures, page = save_answer([Given(text="A")], answer, lambda part: b"png", tmp_path)

    assert [one.ordered[0]["text"] for one in answer.alternatives] == ["a cat", "a dog"]
    assert [one.end and one.end["type"] for one in answer.alternatives] == [
        "response.incomplete", "response.completed",
    ]  # fmt: skip
    assert answer.usage["output_tokens"] == 4 and answer.end == events[-1]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.index("answer 2") < shown.index("a dog") < shown.index("answer 1")
    assert [path.name for path in pictures] == ["image-1.png"]
    assert page.read_text().index("Answer 1") < page.read_text().index("a dog")


@pytest.mark.parametrize("arguments", [[""], ["@missing"]])
def test_arguments_that_make_no_request(arguments: list[str]) -> None:
    with pytest.raises(ValueError):
        read_arguments(arguments)


def test_events_are_parsed_around_comments() -> None:
    lines = ["retry: 5", "", ": ping", "", "id: 1-0", "event: a", 'data: {"type": "a"}', ""]
    assert list(parse_events(iter(lines))) == [("1-0", {"type": "a"})]


def test_answers_are_put_together() -> None:
    answer = Answer()
    for event in (
        {"type": "part.start", "index": 0, "kind": "text"},
        {"type": "text.delta", "index": 0, "text": "a "},
        {"type": "text.delta", "index": 0, "text": "cat"},
        {"type": "part.start", "index": 1, "kind": "image"},
        {"type": "image.done", "index": 1, "sha256": "0", "mime": "image/png"},
        {"type": "something.new"},
        {"type": "response.completed"},
    ):
        answer.add(event)

    assert [part["type"] for part in answer.ordered] == ["text", "image"]
    assert answer.ordered[0]["text"] == "a cat"
    assert answer.end == {"type": "response.completed"}
