"""The page's block 15: a decision leads to a step of this module, by the step's name or its variable's."""

# mypy: disable-error-code="type-arg"

from __future__ import annotations

from typing import Any

import pytest

from egregore_dist import LocalCluster, RunFailed, Sequence, decision, node, parallel


@node("load_data")
def load_data(n: int) -> dict[str, Any]:
    return {"items": list(range(n))}


def process_sequentially(data: dict[str, Any]) -> dict[str, Any]:
    return {"sum": sum(data["items"])}


def quarter(data: dict[str, Any], which: int) -> int:
    return sum(data["items"][which::4])


@node("process_chunk1")
def process_chunk1(data: dict[str, Any]) -> int:
    return quarter(data, 0)


@node("process_chunk2")
def process_chunk2(data: dict[str, Any]) -> int:
    return quarter(data, 1)


@node("process_chunk3")
def process_chunk3(data: dict[str, Any]) -> int:
    return quarter(data, 2)


@node("process_chunk4")
def process_chunk4(data: dict[str, Any]) -> int:
    return quarter(data, 3)


# From here to the workflow: as the page has it, at the level of a module.


@decision("route_by_size")
def route_by_size(data: dict) -> str:
    size = len(data["items"])
    return "parallel_process" if size > 100 else "sequential_process"


@node("sequential_process")
def sequential_process(data: dict) -> dict:
    return process_sequentially(data)


# For large datasets, use parallel processing
parallel_process = parallel(process_chunk1, process_chunk2, process_chunk3, process_chunk4)

workflow = Sequence(
    load_data,
    route_by_size,
    # Execution branches based on data size
)


@pytest.mark.usefixtures("cluster")
def test_block_15_with_decision_nodes() -> None:
    """A hundred items take the node, one more the parallel block; each gets what the decision got."""
    assert workflow(100) == {"sum": 4950}

    large = workflow(101)

    assert list(large) == ["process_chunk1", "process_chunk2", "process_chunk3", "process_chunk4"]
    assert sum(large.values()) == 5050


def test_block_15_the_sequence_goes_on_after_a_decision(local: LocalCluster) -> None:
    """Whichever step was taken, the step after the decision gets its value."""

    @node("total")
    def total(sums: dict[str, int]) -> int:
        return sum(sums.values())

    flow = Sequence(load_data, route_by_size, total)

    assert (flow(100), flow(101)) == (4950, 5050)


def test_block_15_only_the_chosen_step_runs(local: LocalCluster) -> None:
    """The steps that the decision did not name are not executed."""

    @node("broken")
    def broken(data: dict[str, Any]) -> None:
        raise AssertionError("not chosen")

    flow = Sequence(load_data, route_by_size.to(sequential_process, parallel_process=broken))

    assert flow(3) == {"sum": 3}
    with pytest.raises(RunFailed, match="not chosen"):
        flow(101)


def test_block_15_an_answer_that_names_no_step(local: LocalCluster) -> None:
    """A decision that answers what names none of its choices fails the run, and the error lists them."""

    @decision("lost")
    def lost(data: dict[str, Any]) -> str:
        return "sequential_process" + "_2"

    with pytest.raises(RunFailed, match=r"'lost' answered 'sequential_process_2'.*sequential_process"):
        Sequence(load_data, lost.to(sequential_process))(3)
