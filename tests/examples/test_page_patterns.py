"""The page's blocks 22 and 23: map-reduce, and fan-out with fan-in."""

# mypy: disable-error-code="type-arg"

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from egregore_dist import LocalCluster, RunFailed, Sequence, node, parallel


def split(data: dict[str, Any], size: int) -> list[list[int]]:
    return [data["numbers"][at : at + size] for at in range(0, len(data["numbers"]), size)]


def process(chunk: list[Any]) -> int:
    return sum(sum(part) if isinstance(part, list) else part for part in chunk)


def merge(values: Iterable[int]) -> dict[str, int]:
    return {"total": sum(values)}


def test_block_22_map_reduce(local: LocalCluster) -> None:
    """Processors made in a loop run in parallel, each under its own name, and the reducing node gets all of them."""

    @node("split_work")
    def split_work(data: dict) -> list:
        """Split data into chunks."""
        return [chunk for chunk in split(data, size=100)]  # noqa: C416 - the page's words

    # Create parallel processors dynamically
    def create_processors(chunk_count: int):  # type: ignore[no-untyped-def]
        return [node(f"process_chunk_{i}")(lambda chunk: process(chunk)) for i in range(chunk_count)]

    @node("reduce_results")
    def reduce_results(results: dict) -> dict:
        """Combine parallel results."""
        return merge(results.values())

    # Map-reduce workflow
    workflow = Sequence(
        split_work,
        # Create parallel processors based on chunk count
        # (would need dynamic workflow construction)
        reduce_results,
    )

    # As it stands on the page the middle is missing, and the reducing node says what it was given.
    with pytest.raises(RunFailed, match="reduce_results") as caught:
        workflow({"numbers": list(range(250))})
    assert caught.value.node == "reduce_results"

    # With the middle: a parallel block gives every branch the same input, here the three chunks.
    dynamic = Sequence(split_work, parallel(*create_processors(3)), reduce_results)
    assert dynamic({"numbers": list(range(250))}) == {"total": 3 * sum(range(250))}


def test_block_22_what_it_means(local: LocalCluster) -> None:
    """``.map()`` makes one branch per chunk, however many there are: the dynamic workflow that the page asks for."""

    @node("split_work")
    def split_work(data: dict) -> dict:
        return {f"process_chunk_{i}": chunk for i, chunk in enumerate(split(data, size=100))}

    @node("reduce_results")
    def reduce_results(results: dict) -> dict:
        return {"chunks": list(results), **merge(results.values())}

    workflow = Sequence(split_work, node("process_chunk")(process).map(max_concurrent=2), reduce_results)

    assert workflow({"numbers": list(range(250))}) == {
        "chunks": ["process_chunk_0", "process_chunk_1", "process_chunk_2"],
        "total": sum(range(250)),
    }
    assert workflow({"numbers": []}) == {"chunks": [], "total": 0}


@node("prepare_data")
def prepare_data(data: dict[str, int]) -> int:
    return data["order"]


@node("process_for_system_a")
def process_for_system_a(order: int) -> str:
    return f"a{order}"


@node("process_for_system_b")
def process_for_system_b(order: int) -> str:
    return f"b{order}"


@node("process_for_system_c")
def process_for_system_c(order: int) -> str:
    return f"c{order}"


@node("send_notifications")
def send_notifications(combined: dict[str, Any]) -> dict[str, Any]:
    return {**combined, "sent": True}


@pytest.mark.usefixtures("cluster")
def test_block_23_fan_out_fan_in() -> None:
    """One input goes to three systems, their three results come together, and the run goes on."""
    # Fan-out: One input, many parallel operations
    fan_out = parallel(process_for_system_a, process_for_system_b, process_for_system_c)

    # Fan-in: Many results, one output
    @node("fan_in")
    def fan_in(results: dict) -> dict:
        """Combine all parallel results."""
        return {
            "system_a": results["process_for_system_a"],
            "system_b": results["process_for_system_b"],
            "system_c": results["process_for_system_c"],
            "combined": True,
        }

    workflow = Sequence(prepare_data, fan_out, fan_in, send_notifications)

    assert workflow({"order": 7}) == {
        "system_a": "a7",
        "system_b": "b7",
        "system_c": "c7",
        "combined": True,
        "sent": True,
    }
