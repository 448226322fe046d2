"""The page's blocks 1 to 3: run a parallel block, read its results, hand them to the next node."""

# mypy: disable-error-code="type-arg"

from __future__ import annotations

from typing import Any

import pytest

from egregore_dist import LocalCluster, Sequence, node, parallel


@pytest.mark.usefixtures("cluster")
def test_block_01_basic_parallel() -> None:
    """Three nodes run on one input, and their results come back by name, in the order of the branches."""

    @node("fetch_api")
    def fetch_api(url: str) -> dict:
        # API call
        return {"source": "api", "data": "..."}

    @node("fetch_database")
    def fetch_database(query: str) -> dict:
        # Database query
        return {"source": "db", "data": "..."}

    @node("fetch_cache")
    def fetch_cache(key: str) -> dict:
        # Cache lookup
        return {"source": "cache", "data": "..."}

    # Execute all three concurrently
    parallel_fetch = parallel(fetch_api, fetch_database, fetch_cache)

    result = parallel_fetch({"url": "...", "query": "...", "key": "..."})

    assert list(result.items()) == [
        ("fetch_api", {"source": "api", "data": "..."}),
        ("fetch_database", {"source": "db", "data": "..."}),
        ("fetch_cache", {"source": "cache", "data": "..."}),
    ]


@node("fetch_api")
def fetch_api(url: str) -> dict:
    return {"source": "api", "data": url}


@node("fetch_database")
def fetch_database(query: str) -> dict:
    return {"source": "db", "data": query}


@node("fetch_cache")
def fetch_cache(key: str) -> dict:
    return {"source": "cache", "data": key}


parallel_fetch = parallel(fetch_api, fetch_database, fetch_cache)


def test_block_01_each_node_gets_the_part_that_it_names(local: LocalCluster) -> None:
    """A node with a ``url: str`` gets the input's ``"url"``, not the whole input."""
    result = parallel_fetch({"url": "u", "query": "q", "key": "k"})

    assert [entry["data"] for entry in result.values()] == ["u", "q", "k"]


def test_block_02_result_collection(local: LocalCluster) -> None:
    """Each result is found under the name of its node."""
    result = parallel_fetch({"url": "u", "query": "q", "key": "k"})

    # Access individual results
    api_result = result["fetch_api"]
    db_result = result["fetch_database"]
    cache_result = result["fetch_cache"]

    assert type(result) is dict
    assert api_result == {"source": "api", "data": "u"}
    assert db_result == {"source": "db", "data": "q"}
    assert cache_result == {"source": "cache", "data": "k"}


def test_block_02_the_key_of_a_chain_is_its_last_node(local: LocalCluster) -> None:
    """The *terminal* node names the result of a branch of several nodes."""

    @node("shout")
    def shout(entry: dict[str, Any]) -> str:
        return str(entry["data"]).upper()

    assert parallel(fetch_api >> shout, fetch_cache)({"url": "u", "key": "k"}) == {
        "shout": "U",
        "fetch_cache": {"source": "cache", "data": "k"},
    }


def test_block_03_using_results_in_the_next_node(local: LocalCluster) -> None:
    """The node after a block receives the dictionary of its results."""

    @node("combine_results")
    def combine_results(data: dict) -> dict:
        """Combine parallel results."""
        return {
            "api": data["fetch_api"],
            "db": data["fetch_database"],
            "cache": data["fetch_cache"],
            "combined": True,
        }

    workflow = Sequence(parallel(fetch_api, fetch_database, fetch_cache), combine_results)

    assert workflow({"url": "u", "query": "q", "key": "k"}) == {
        "api": {"source": "api", "data": "u"},
        "db": {"source": "db", "data": "q"},
        "cache": {"source": "cache", "data": "k"},
        "combined": True,
    }
