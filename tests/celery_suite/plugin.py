"""A pytest plugin for Celery's own tests: installs this package into their app, and writes what failed to a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from celery.contrib.testing.worker import test_worker_starting

from egregore_dist.worker import install

#: The file that the names of the failed tests are written to, and whether to install.
OUTCOME, INSTALL = "CELERY_SUITE_OUTCOME", "CELERY_SUITE_INSTALL"

_failed: set[str] = set()
_passed: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker of a plugin that is not needed here: what fails on one side only is run again instead."""
    config.addinivalue_line("markers", "flaky: repeated by pytest-rerunfailures")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a part of a test ended."""
    if report.failed:
        _failed.add(report.nodeid)
    elif report.passed and report.when == "call":
        _passed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write down what failed and what passed."""
    outcome = {"failed": sorted(_failed), "passed": sorted(_passed - _failed)}
    Path(os.environ[OUTCOME]).write_text(json.dumps(outcome), "utf-8")


@test_worker_starting.connect
def _on_worker_starting(sender: Any, **_: Any) -> None:
    if os.environ.get(INSTALL):
        install(sender)
