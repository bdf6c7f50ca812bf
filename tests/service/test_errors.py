"""One hierarchy of errors, and its drawing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from service import errors

SERVICE = Path(errors.__file__).parent


def test_the_tree_lists_every_error_of_the_service() -> None:
    bases: dict[str, set[str]] = {}
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).split(".")[-1] for base in node.bases}
    found = {"Exception", "RuntimeError", "ValueError", "OSError", "BaseException"}
    builtin = set(found)
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    drawn = re.findall(r"(?:^ +|─ )([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    tree = {name for name in drawn if name in bases}

    assert found - builtin == tree
    # All of them are of the one hierarchy.
    assert {name for name in tree if not bases[name] & found - builtin} == {"ServiceError"}


def test_a_message_is_fixed_by_the_class_or_given() -> None:
    assert errors.QueueFull(3.0).message == "The server's queue is full."
    assert errors.QueueFull(3.0).retry_after_s == 3.0
    assert str(errors.InvalidRequest("No.", param="n")) == "No."
