"""Exceptions: what they say, and that they travel between a program's own processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from egregore_dist import errors

EVERY: list[errors.EgregoreError] = [
    errors.BindingError("x"),
    errors.UnreadableWorkflow("x"),
    errors.BrokerFull("full"),
    errors.RunFailed("x", run_id="r", node="n", remote_traceback="Traceback"),
    errors.ParallelExecutionError(
        "x", block="b", branch="c", errors={"c": errors.BranchError("c", node="n")}, results={"d": 1}, run_id="r"
    ),
    errors.ParallelTimeoutError("x", block="b", timeout=1.0, results={}, running=["c"], pending=[], run_id="r"),
    errors.RunCancelled("x", run_id="r"),
    errors.RunLost("x", run_id="r"),
    errors.BranchError(1, kind="lost", type="WorkerLost", message="gone", node="n", attempt=3),
    errors.RemoteError("package.Odd", "what it said"),
]


def state(error: Any) -> Any:
    """All that an exception knows; exceptions inside of it as what they know."""
    return {name: str(value) if name == "errors" else value for name, value in vars(error).items()}


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("journey", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
def test_errors_travel_between_processes(error: errors.EgregoreError, journey: Any) -> None:
    """A process pool, or a Celery task, that hands on an error of a run hands on all of it."""
    error.add_note("a note")
    back = journey(error)

    assert type(back) is type(error)
    assert (str(back), back.args, state(back)) == (str(error), error.args, state(error))


@pytest.mark.parametrize(
    ("branch", "node", "said"),
    [
        ("load", "load", "branch 'load' failed: KeyError: 'k'"),
        ("load", None, "branch 'load' failed: KeyError: 'k'"),
        (3, "load", "branch 3 (node 'load') failed: KeyError: 'k'"),
    ],
)
def test_a_branch_error_names_its_node(branch: Any, node: str | None, said: str) -> None:
    """The node is named where the branch has another name."""
    assert str(errors.BranchError(branch, type="KeyError", message="'k'", node=node)) == said
