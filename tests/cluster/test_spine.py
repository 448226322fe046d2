"""The page's first examples on real workers."""

from __future__ import annotations

import asyncio

import pytest

from egregore_dist import LocalCluster, ParallelExecutionError, Sequence, node, parallel

pytestmark = pytest.mark.store_faults


@node("fetch_api")
def fetch_api(url: str) -> dict[str, str]:
    return {"source": "api", "data": url}


@node("fetch_database")
async def fetch_database(query: str) -> dict[str, str]:
    await asyncio.sleep(0)
    return {"source": "db", "data": query}


@node("combine")
def combine(data: dict[str, dict[str, str]]) -> list[str]:
    return [data["fetch_api"]["data"], data["fetch_database"]["data"]]


def test_a_sequence_goes_on_after_its_block(cluster: LocalCluster) -> None:
    """The step after a block gets the block's results by name."""
    flow = Sequence(parallel(fetch_api, fetch_database), combine)

    assert flow({"url": "u", "query": "q"}) == ["u", "q"]


def test_a_failing_branch_is_named(cluster: LocalCluster) -> None:
    """The error of a block names the branch that failed, and its cause is the original exception."""

    @node("failing")
    def failing(data: object) -> None:
        raise ValueError("Task failed!")

    with pytest.raises(ParallelExecutionError) as caught:
        parallel(fetch_api, failing)({"url": "u"})

    assert caught.value.branch == "failing"
    assert isinstance(caught.value.__cause__, ValueError)
