"""Checks of the numbers that users give as options and limits."""

from __future__ import annotations

import math
from typing import cast

from egregore_dist import errors
from egregore_dist.workflow.names import shortened

#: Whole numbers up to this one are kept exactly by JSON and by the ledger's scripts.
LARGEST = 2**53
#: Seconds; a longer time is as good as this one, and clocks can still count it.
LONGEST = 100 * 365 * 86400.0


def whole_number(value: object, where: str, *, least: int) -> int:
    """Return ``value`` if it is an int of at least ``least`` and at most `LARGEST`; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        most = " and at most 2**53" if isinstance(value, int) and value > LARGEST else ""
        raise errors.WorkflowError(f"{where} must be a whole number of at least {least}{most}, not {shortened(value)}")
    return value


def positive_number(value: object, where: str) -> float:
    """Return ``value`` as a float if it is a number above zero, and at most `LARGEST`; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
        most = " and at most 2**53" if isinstance(value, int | float) and value > LARGEST else ""
        raise errors.WorkflowError(f"{where} must be a number above 0{most}, not {shortened(value)}")
    return float(value)


def seconds(value: object, where: str) -> float:
    """Return ``value`` as a float of at most `LONGEST` if it is a finite number above zero; a bool is none."""
    # An int may be beyond what a float holds.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    short = min(cast(float, value), LONGEST) if is_number else 0.0
    if not short > 0 or value == math.inf:
        raise errors.WorkflowError(f"{where} (seconds) must be a finite number above 0, not {shortened(value)}")
    return float(short)


def boolean(value: object, where: str) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise errors.WorkflowError(f"{where} must be True or False, not {shortened(value)}")
    return value
