"""The page's blocks 16 to 21: when parallel is worth it, and its best practices."""

# mypy: disable-error-code="type-arg"

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import BindingError, LocalCluster, ParallelExecutionError, node, parallel
from tests.examples import requests_like as requests
from tests.examples import room


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers only when two requests are waiting."""
    both = threading.Barrier(2, timeout=room.PATIENCE)

    class Pairs(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            both.wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pairs) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_block_16_overhead_analysis(local: LocalCluster, url: str) -> None:
    """A fast node binds its two parameters by name; two requests wait for their answers at the same time."""

    # Not worth it (too fast):
    @node("add_numbers")
    def add_numbers(a: int, b: int) -> int:
        return a + b  # <1ms - sequential is faster

    # Worth it (I/O bound):
    @node("fetch_from_api")
    def fetch_from_api(url: str) -> dict:
        return requests.get(url).json()  # type: ignore[no-any-return]  # 100-500ms - parallel is much faster

    assert add_numbers(1, 2) == 3
    assert add_numbers.run({"a": 1, "b": 2}) == add_numbers.run([1, 2]) == 3
    assert parallel(fetch_from_api, fetch_from_api.alias("again"))({"url": url}) == {
        "fetch_from_api": {"status": "ok"},
        "again": {"status": "ok"},
    }


@node("fetch_user_id")
def fetch_user_id(name: str) -> dict[str, int]:
    return {"user_id": len(name)}


@node("fetch_user_profile")
def fetch_user_profile(user: dict[str, Any]) -> str:
    return f"profile of {user.get('user_id')}"


@node("fetch_user_posts")
def fetch_user_posts(user: dict[str, Any]) -> str:
    return f"posts of {user['user_id']}"


@node("fetch_user_comments")
def fetch_user_comments(user: dict[str, Any]) -> str:
    return f"comments of {user['user_id']}"


def test_block_17_independent_operations(local: LocalCluster) -> None:
    """Each branch gets the block's input, and never what a sibling made: what depends on it belongs after it."""
    # Good: Independent operations
    good = parallel(fetch_user_profile, fetch_user_posts, fetch_user_comments)

    # Bad: Dependent operations
    bad = parallel(
        fetch_user_id,  # Must complete first!
        fetch_user_profile,  # Depends on user_id
    )

    assert good({"user_id": 3}) == {
        "fetch_user_profile": "profile of 3",
        "fetch_user_posts": "posts of 3",
        "fetch_user_comments": "comments of 3",
    }
    assert bad({"name": "ada"}) == {"fetch_user_id": {"user_id": 3}, "fetch_user_profile": "profile of None"}
    assert (fetch_user_id >> good)({"name": "ada"})["fetch_user_posts"] == "posts of 3"


def test_block_17_a_parameter_that_is_not_there(local: LocalCluster) -> None:
    """A branch whose parameters the input does not have is refused by name, before anything runs."""

    @node("rename")
    def rename(user_id: int, name: str) -> str:
        return f"{user_id}: {name}"

    with pytest.raises(BindingError, match=r"'rename' needs 'user_id'"):
        parallel(fetch_user_id, rename)({"name": "ada"})


def test_block_18_concurrency_limits(local: LocalCluster, tmp_path: Path) -> None:
    """With max_concurrent=5 five requests run at a time; without a limit all of them do."""

    def request(name: str, together: int) -> Any:
        async def body(data: dict[str, Any]) -> room.Span:
            return await room.awork(data, name, together=together)

        return node(name)(body)

    def limited(api_requests: list[Any]) -> Any:
        # Good: Limited concurrency
        return parallel(
            *api_requests,
            max_concurrent=5,  # Respect rate limits
        )

    def unlimited(api_requests: list[Any]) -> Any:
        # Bad: Unlimited concurrency
        return parallel(*api_requests)  # May overwhelm API

    results = []
    for together, build in ((5, limited), (12, unlimited)):
        folder = tmp_path / str(together)
        folder.mkdir()
        results.append(build([request(f"r{i}", together) for i in range(12)])({"room": str(folder)}))

    assert [len(result) for result in results] == [12, 12]
    assert [room.peak(result.values()) for result in results] == [5, 12]


def test_block_19_timeouts(local: LocalCluster) -> None:
    """A timeout costs a block nothing that ends in time, and a block without one has no deadline."""
    long_tasks = [node(f"long_task{i}")(lambda data: data["n"] + 1) for i in range(3)]

    # Good: With timeout
    good = parallel(
        *long_tasks,
        timeout=60.0,  # Fail if not done in 60s
    )

    # Bad: No timeout
    bad = parallel(*long_tasks)  # May hang indefinitely

    assert good({"n": 1}) == bad({"n": 1}) == {"long_task0": 2, "long_task1": 2, "long_task2": 2}


def fetch(url: str) -> dict[str, Any]:
    if "broken" in url:
        raise ConnectionError(f"no route to {url}")
    return {"url": url}


def test_block_20_resilient_nodes(local: LocalCluster) -> None:
    """A node that catches its errors gives them as data; one that does not ends the whole block."""

    # Good: Resilient nodes
    @node("safe_fetch")
    def safe_fetch(url: str) -> dict:
        try:
            return fetch(url)
        except Exception as e:
            return {"error": str(e)}

    # Bad: Unhandled errors
    @node("unsafe_fetch")
    def unsafe_fetch(url: str) -> dict:
        return fetch(url)  # Crashes entire parallel block

    assert parallel(safe_fetch, unsafe_fetch)({"url": "a"}) == {
        "safe_fetch": {"url": "a"},
        "unsafe_fetch": {"url": "a"},
    }
    assert parallel(safe_fetch)({"url": "broken"}) == {"safe_fetch": {"error": "no route to broken"}}
    with pytest.raises(ParallelExecutionError) as caught:
        parallel(safe_fetch, unsafe_fetch)({"url": "broken"})
    assert caught.value.branch == "unsafe_fetch"
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_block_21_names(local: LocalCluster) -> None:
    """What the page's stacked decorators mean: a node's name, not its function's, is the key of its result."""

    @node("fetch_user_data")
    def first(data: dict[str, int]) -> str:
        return f"user {data['id']}"

    @node("fetch_order_data")
    def second(data: dict[str, int]) -> str:
        return f"order {data['id']}"

    @node("fetch_payment_data")
    def third(data: dict[str, int]) -> str:
        return f"payment {data['id']}"

    result = parallel(first, second, third)({"id": 7})
    user = result["fetch_user_data"]  # Clear

    assert user == "user 7"
    assert list(result) == ["fetch_user_data", "fetch_order_data", "fetch_payment_data"]
