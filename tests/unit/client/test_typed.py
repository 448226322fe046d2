"""Values of runs as the annotations of their nodes say."""

from __future__ import annotations

import dataclasses

import pytest

from egregore_dist import errors, node, parallel
from egregore_dist.client.typed import typed
from egregore_dist.workflow.describe import result_type


@dataclasses.dataclass
class Inner:
    size: int


@node("measure")
def measure(size: int) -> Inner:
    return Inner(size)


def test_a_value_that_does_not_fit_names_node_and_annotation() -> None:
    """Whose annotation it is that the value does not fit is told, in a block and in a map too."""
    said = r"^the value of run 'r', returned by node 'measure'.*expected Inner, got a mapping with the keys 'nope'"

    assert typed({"size": 1}, result_type(measure), "r") == Inner(1)
    for step, value in (
        (measure, {"nope": 1}),
        (parallel(measure), {"measure": {"nope": 1}}),
        (measure.map(), [{"size": 1}, {"nope": 1}]),
    ):
        with pytest.raises(errors.BindingError, match=said):
            typed(value, result_type(step), "r")
