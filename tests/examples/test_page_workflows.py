"""The page's blocks 13 and 14: parallel blocks inside sequences, and inside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from egregore_dist import LocalCluster, Sequence, node, parallel
from tests.examples import room


@node("extract_data")
def extract_data(source: dict[str, Any]) -> list[int]:
    return list(range(source["rows"]))


@node("transform_type_a")
def transform_type_a(rows: list[int]) -> int:
    return sum(rows)


@node("transform_type_b")
def transform_type_b(rows: list[int]) -> int:
    return max(rows)


@node("transform_type_c")
def transform_type_c(rows: list[int]) -> int:
    return len(rows)


@node("combine_results")
def combine_results(data: dict[str, int]) -> list[tuple[str, int]]:
    return list(data.items())


@node("save_to_database")
def save_to_database(rows: list[tuple[str, int]]) -> dict[str, Any]:
    return {"saved": rows}


def test_block_13_in_sequences(local: LocalCluster) -> None:
    """A sequence takes as many steps as it is given, a block among them, and each gets the value of the one before."""
    workflow = Sequence(
        extract_data,  # Sequential
        parallel(  # Parallel
            transform_type_a, transform_type_b, transform_type_c
        ),
        combine_results,  # Sequential
        save_to_database,  # Sequential
    )

    assert workflow({"rows": 4}) == {
        "saved": [["transform_type_a", 6], ["transform_type_b", 3], ["transform_type_c", 4]]
    }


@node("main_task1")
def main_task1(data: dict[str, Any]) -> room.Span:
    return room.work(data, "main_task1", after=data["main_task1"])


@node("main_task3")
def main_task3(data: dict[str, Any]) -> room.Span:
    return room.work(data, "main_task3", after=data["main_task3"])


@node("subtask1")
def subtask1(data: dict[str, Any]) -> room.Span:
    return room.work(data, "subtask1", after=data["subtasks"])


@node("subtask2")
def subtask2(data: dict[str, Any]) -> room.Span:
    return room.work(data, "subtask2", after=data["subtasks"])


@node("subtask3")
def subtask3(data: dict[str, Any]) -> room.Span:
    return room.work(data, "subtask3", after=data["subtasks"])


inner_parallel = parallel(subtask1, subtask2, subtask3)

outer_parallel = parallel(
    main_task1,
    inner_parallel,  # Nested parallel execution
    main_task3,
)

FIVE = ["main_task1", "subtask1", "subtask2", "subtask3", "main_task3"]


def test_block_14_nested_parallel_execution(tmp_path: Path) -> None:
    """With a lane for each, the two main tasks and the three subtasks all run at one moment."""
    data = {"room": str(tmp_path), "main_task1": FIVE, "main_task3": FIVE, "subtasks": FIVE}

    with LocalCluster(workers=2, concurrency=3):
        result = outer_parallel(data)

    # Execution:
    # - main_task1, inner_parallel, and main_task3 run concurrently
    # - Within inner_parallel, subtask1/2/3 run concurrently
    inner = result["parallel_1"]
    assert list(result) == ["main_task1", "parallel_1", "main_task3"]
    assert list(inner) == ["subtask1", "subtask2", "subtask3"]
    assert room.peak([result["main_task1"], result["main_task3"], *inner.values()]) == 5


@pytest.mark.usefixtures("cluster")
def test_block_14_a_nested_block_holds_no_lane(tmp_path: Path) -> None:
    """On two lanes a main task may wait for all of a nested block: nobody occupies the other lane by waiting for it."""
    data = {"room": str(tmp_path), "main_task1": FIVE[1:4], "main_task3": [], "subtasks": ["main_task1"]}

    result = outer_parallel(data)

    spans = [result["main_task1"], result["main_task3"], *result["parallel_1"].values()]
    assert {span["name"] for span in spans} == set(FIVE)
    assert room.peak(spans) == 2
    assert max(span["started"] for span in result["parallel_1"].values()) < result["main_task1"]["ended"]


def test_block_14_a_nested_block_by_its_own_name(local: LocalCluster, tmp_path: Path) -> None:
    """A nested block that has a name gives it to its result; one that is followed by a node has that node's."""

    @node("alone")
    def alone(data: dict[str, Any]) -> str:
        return "alone"

    @node("join")
    def join(data: dict[str, str]) -> list[str]:
        return sorted(data)

    named = parallel(alone, alone.alias("alone2"), name="inner")
    deep = parallel(named, parallel(parallel(alone) >> join, name="deep"), named.alias("again") >> join)

    assert deep({"any": "thing"}) == {
        "inner": {"alone": "alone", "alone2": "alone"},
        "deep": {"join": ["alone"]},
        "join": ["alone", "alone2"],
    }
