"""Checks of the numbers that users give as options and limits."""

from __future__ import annotations

import math

from egregore_dist import errors
from egregore_dist.workflow.names import shortened


def whole_number(value: object, where: str, *, least: int) -> int:
    """Return ``value`` if it is an int of at least ``least``; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise errors.WorkflowError(f"{where} must be a whole number of at least {least}, not {shortened(value)}")
    return value


def positive_number(value: object, where: str) -> float:
    """Return ``value`` as a float if it is a finite number above zero; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise errors.WorkflowError(f"{where} must be a number above 0, not {shortened(value)}")
    return float(value)


def optional_bool(value: object, where: str) -> bool | None:
    """Return ``value`` if it is True, False or None."""
    if value is not None and not isinstance(value, bool):
        raise errors.WorkflowError(f"{where} must be True, False or None, not {shortened(value)}")
    return value
