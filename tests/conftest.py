"""How tests share processes, tests whose programs are missing, floors of coverage."""

from __future__ import annotations

import io
import os
import shutil

import pytest
from xdist.scheduler import LoadScopeScheduling

# Tests of these folders share what takes long to start; all others share it within a file.
STARTED_ONCE = (
    "model/engine/text",
    "model/engine/image/backends",
    "model/export",
    "model/checkpoint",
)
# By mark: programs of which one is needed, and the name of it for a reader.
PROGRAMS = {
    "needs_compiler": (("c++", "g++", "clang++"), "a C++ compiler (sudo apt-get install g++)"),
    "needs_kubectl": (("kubectl",), "kubectl"),
}
NO_CARD = "PyTorch finds no CUDA device"
# Least branch coverage in percent of the packages that a run measures: `make check` measures
# `service` by its own tests, `make coverage` both by the whole suite.
COVERAGE_FLOORS = {"service": 90, "model": 85}


# One process per core: several threads each would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class SharedStarts(LoadScopeScheduling):  # type: ignore[misc]
    """Has one process run the tests that share what takes long to start."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].removeprefix("tests/")
        return next((folder for folder in STARTED_ONCE if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SharedStarts:
    return SharedStarts(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a card or a program that is not there; on CI the latter must run.

    Last, when the tests of other marks are gone.
    """
    on_cards = [item for item in items if item.get_closest_marker("gpu")]
    if on_cards and not _has_card():
        for item in on_cards:
            item.add_marker(pytest.mark.skip(reason=NO_CARD))
    if os.environ.get("CI") == "true":
        return
    for mark, (programs, name) in PROGRAMS.items():
        if not any(map(shutil.which, programs)):
            for item in items:
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=f"needs {name}"))


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a package's coverage is below its floor."""
    is_worker = hasattr(session.config, "workerinput")
    measures = session.config.pluginmanager.hasplugin("_cov")
    if is_worker or not measures or session.testscollected == 0:
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
    for _, name in PROGRAMS.values():
        if number := sum(f"needs {name}" in str(report.longrepr) for report in skipped):
            terminalreporter.write_line(f"{number} tests were skipped: they need {name}")
