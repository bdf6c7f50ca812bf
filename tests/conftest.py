"""Tests of compiled code where there is no compiler, and the floors of coverage."""

from __future__ import annotations

import os
import shutil

import pytest

COMPILERS = ("c++", "g++", "clang++")
NO_COMPILER = "needs a C++ compiler (sudo apt-get install g++)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a compiler where there is none; on CI it must run."""
    if any(map(shutil.which, COMPILERS)) or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.get_closest_marker("needs_compiler"):
            item.add_marker(pytest.mark.skip(reason=NO_COMPILER))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.getreports("skipped")
    number = sum(NO_COMPILER in str(report.longrepr) for report in skipped)
    if number:
        terminalreporter.write_line(
            f"{number} tests were skipped: they need a C++ compiler (sudo apt-get install g++)"
        )
