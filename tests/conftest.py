"""Tests of compiled code where there is no compiler, and the floors of coverage."""

from __future__ import annotations

import io
import os
import shutil

import pytest

COMPILERS = ("c++", "g++", "clang++")
NO_COMPILER = "needs a C++ compiler"
# Least branch coverage in percent of the packages that a run measures: `make check` measures
# `service` by its own tests, `make coverage` both by the whole suite.
COVERAGE_FLOORS = {"service": 90, "model": 85}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a compiler where there is none; on CI it must run."""
    if any(map(shutil.which, COMPILERS)) or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.get_closest_marker("needs_compiler"):
            item.add_marker(pytest.mark.skip(reason=NO_COMPILER))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a package's coverage is below its floor."""
    if not session.config.pluginmanager.hasplugin("_cov") or session.testscollected == 0:
        return
    import coverage

    measured = coverage.Coverage()
    measured.load()
    session.config.coverage_lines = []  # type: ignore[attr-defined]
    named = session.config.getoption("cov_source")  # by `--cov=NAME`; `--cov` alone means all
    for package, floor in COVERAGE_FLOORS.items():
        if package not in named and named != [True]:
            continue
        # A report with `include` would count what `run:omit` leaves out as never run.
        omitted = measured.get_option("run:omit")
        reached = measured.report(include=[f"{package}/*"], omit=omitted, file=io.StringIO())
        session.config.coverage_lines.append(  # type: ignore[attr-defined]
            f"branch coverage of {package}/: {reached:.1f} % (at least {floor} %)"
        )
        if reached < floor and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in getattr(terminalreporter.config, "coverage_lines", ()):
        terminalreporter.write_line(line)
    skipped = terminalreporter.getreports("skipped")
    number = sum(NO_COMPILER in str(report.longrepr) for report in skipped)
    if number:
        terminalreporter.write_line(
            f"{number} tests were skipped: they need a C++ compiler (sudo apt-get install g++)"
        )
