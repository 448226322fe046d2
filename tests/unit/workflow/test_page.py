"""The page's code, block by block in its order, as far as it can be built without a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.workflow import Sequence, decision, node, parallel, spec
from egregore_dist.workflow.binding import Parameters
from egregore_dist.workflow.describe import describe


def kept(value: Any, annotation: Any, where: str) -> Any:
    return value


@node("fetch_api")
def fetch_api(url: str) -> dict:  # type: ignore[type-arg]
    return {"source": "api", "data": url}


@node("fetch_database")
def fetch_database(query: str) -> dict:  # type: ignore[type-arg]
    return {"source": "db", "data": query}


@node("fetch_cache")
def fetch_cache(key: str) -> dict:  # type: ignore[type-arg]
    return {"source": "cache", "data": key}


@node("combine_results")
def combine_results(data: dict) -> dict:  # type: ignore[type-arg]
    return {"api": data["fetch_api"], "db": data["fetch_database"], "combined": True}


@node("resilient_task")
def resilient_task(data: dict) -> dict:  # type: ignore[type-arg]
    try:
        raise OSError("down")
    except Exception as e:
        return {"status": "error", "error": str(e)}


@node("task_with_timeout")
async def task_with_timeout(data: dict) -> dict:  # type: ignore[type-arg]
    try:
        return {"status": await asyncio.wait_for(asyncio.Event().wait(), timeout=0.001)}
    except TimeoutError:
        return {"status": "timeout"}


@decision("route_by_size")
def route_by_size(data: dict) -> str:  # type: ignore[type-arg]
    size = len(data["items"])
    return "parallel_process" if size > 100 else "sequential_process"


@node("sequential_process")
def sequential_process(data: dict) -> dict:  # type: ignore[type-arg]
    return data


def plain(name: str) -> Any:
    return node(name)(lambda data: data)


parallel_process = parallel(*[plain(f"process_chunk{i}") for i in range(1, 5)])


def test_basic_parallel_execution() -> None:
    """Block 1: three fetches in a parallel, each given its own key of the input."""
    parallel_fetch = parallel(fetch_api, fetch_database, fetch_cache)
    data = {"url": "u", "query": "q", "key": "k"}

    heads = describe(parallel_fetch).heads
    arguments = [Parameters.of(fn).bind(name, data, context=None, convert=kept) for name, fn in heads]

    assert [arguments[0], arguments[1], arguments[2]] == [(("u",), {}), (("q",), {}), (("k",), {})]


def test_result_collection() -> None:
    """Block 2: the keys of the result are the names of the nodes, in order."""
    assert parallel(fetch_api, fetch_database, fetch_cache).keys == ("fetch_api", "fetch_database", "fetch_cache")


def test_results_in_the_next_node() -> None:
    """Block 3: the next node gets the whole dictionary."""
    workflow = Sequence(parallel(fetch_api, fetch_database, fetch_cache), combine_results)
    results = {"fetch_api": 1, "fetch_database": 2, "fetch_cache": 3}

    args, _ = Parameters.of(combine_results.fn).bind("combine_results", results, context=None, convert=kept)

    assert len(workflow.steps) == 2
    assert (results,) == args


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_concurrent": 2}, (2, None, True)),
        ({"max_concurrent": 3}, (3, None, True)),
        ({"timeout": 30.0}, (None, 30.0, True)),
        ({}, (None, None, True)),
        ({"optimization_enabled": False}, (None, None, False)),
        ({"max_concurrent": 4}, (4, None, True)),
        ({"max_concurrent": 2, "optimization_enabled": False}, (2, None, False)),
        ({"max_concurrent": 5}, (5, None, True)),
        ({"timeout": 60.0}, (None, 60.0, True)),
    ],
)
def test_limits(limits: dict[str, Any], expected: tuple[int | None, float | None, bool]) -> None:
    """Blocks 4, 5, 6, 8, 10, 18 and 19: concurrency, timeout and optimisation reach the spec."""
    root = describe(parallel(*[plain(f"task{i}") for i in range(1, 6)], **limits)).spec.root

    assert isinstance(root, spec.ParallelSpec)
    assert expected == (root.max_concurrent, root.timeout, root.optimize)


def test_per_branch_timeout() -> None:
    """Block 7: a node may limit its own time."""
    assert asyncio.run(task_with_timeout({})) == {"status": "timeout"}


def test_graceful_error_handling() -> None:
    """Blocks 12 and 20: a node that handles its errors is called like its function."""
    assert resilient_task({}) == {"status": "error", "error": "down"}


def test_sequences() -> None:
    """Blocks 13 and 23: nodes before and after a parallel."""
    steps = [plain("extract_data"), parallel_process, plain("combine"), plain("save_to_database")]

    assert describe(Sequence(*steps)).spec.name == "extract_data-parallel_1-combine-save_to_database"


def test_nested_parallel() -> None:
    """Block 14: a nested parallel is named by its place."""
    inner = parallel(plain("subtask1"), plain("subtask2"), plain("subtask3"))
    outer = parallel(plain("main_task1"), inner, plain("main_task3"))

    assert outer.keys == ("main_task1", "parallel_1", "main_task3")


def test_decision_nodes() -> None:
    """Block 15: the steps that a decision can answer are found in its module."""
    root = describe(Sequence(plain("load_data"), route_by_size)).spec.root
    chosen = spec.step_at(root, (1,))

    assert isinstance(chosen, spec.DecisionSpec)
    assert chosen.keys == ("parallel_process", "sequential_process")
    assert tuple(step.name for step in chosen.steps) == ("parallel_process", "sequential_process")


def test_overhead_analysis() -> None:
    """Block 16: two parameters are bound by name."""

    @node("add_numbers")
    def add_numbers(a: int, b: int) -> int:
        return a + b

    args, kwargs = Parameters.of(add_numbers.fn).bind("add_numbers", {"a": 1, "b": 2}, context=None, convert=kept)
    assert add_numbers(*args, **kwargs) == 3


def test_clear_names() -> None:
    """Block 21: names are how results are found, so two branches cannot share one."""
    with pytest.raises(errors.WorkflowError, match="would both be named 'fetch1'"):
        parallel(plain("fetch1"), plain("fetch1"))


def test_map_reduce() -> None:
    """Block 22: processors made in a loop, of a lambda each."""

    def create_processors(chunk_count: int) -> list[Any]:
        return [node(f"process_chunk_{i}")(lambda chunk: chunk) for i in range(chunk_count)]

    workflow = Sequence(plain("split_work"), parallel(*create_processors(3)), plain("reduce_results"))

    assert isinstance(workflow.steps[1], type(parallel()))
    assert workflow.steps[1].keys == ("process_chunk_0", "process_chunk_1", "process_chunk_2")
