"""Calling one node: retries, timeouts, awaitables, what it returns."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from egregore_dist import Context, errors
from egregore_dist.engine import execute, inside, threads
from egregore_dist.engine.board import Board
from egregore_dist.engine.execute import Job, NodeTimeout
from egregore_dist.engine.interpret import Value
from egregore_dist.engine.interrupt import Interrupt, Interrupter
from egregore_dist.engine.loop import Loop
from egregore_dist.engine.raiser import Raiser
from egregore_dist.engine.runtime import Callee
from egregore_dist.engine.turns import Turns
from egregore_dist.wire import codec
from egregore_dist.workflow import spec
from egregore_dist.workflow.binding import Parameters


def job(fn: Callable[..., Any], data: Any = 1, *, attempts: int = 1, limit: int = 10_000, **options: Any) -> Job:
    """One call of ``fn`` as a node named ``it``."""

    def context(attempt: int) -> Context:
        return Context(run="r", workflow="w", block="b", branch="x", node="it", attempt=attempt)

    options = {"retry_delay": 1e-6, **options}
    node = spec.NodeSpec(name="it", function=0, is_async=asyncio.iscoroutinefunction(fn), **options)
    raw = codec.encode(data, where="test")
    return Job(node, Callee(fn, Parameters.of(fn)), Value(raw), context, attempts, limit)


def unseen(job: Job) -> Turns:
    """A call that no board shows."""
    return Turns(
        Board(),
        Interrupter(),
        lambda: False,
        branch=0,
        attempt=job.attempts,
        node=job.node.name,
        calls=job.calls,
        retries=job.node.retries,
        timeout=job.node.timeout,
        on_loop=job.node.is_async,
    )


def on_thread(body: Callable[[], Any], name: str) -> Awaitable[threads.Ended[Any]]:
    """A thread that nothing but its caller stops."""
    context = contextvars.copy_context()
    return threads.call(body, Raiser(), name=name, context=context, left=None, is_lost=lambda: False)


@pytest.fixture(params=["sync", "async"])
def result(request: pytest.FixtureRequest) -> Iterator[Callable[[Job], Any]]:
    """Calls a job from a sync lane, or from a lane of many, and decodes its value."""
    with contextlib.closing(Loop()) as loop:
        if request.param == "async":
            yield lambda job: codec.decode(loop.run(execute.acall(job, unseen, on_thread)).raw)
        else:
            yield lambda job: codec.decode(execute.call(job, loop, lambda _: contextlib.nullcontext()).raw)


def test_a_function_and_a_coroutine_are_called(result: Callable[[Job], Any]) -> None:
    """Sync functions, async functions and sync functions that return awaitables give their value."""

    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    assert result(job(lambda value: value + 1)) == 2
    assert result(job(later)) == 2
    assert result(job(lambda value: asyncio.wait_for(later(value), 5))) == 2


def test_retries_count_up(result: Callable[[Job], Any]) -> None:
    """A node is tried ``retries`` times more; each attempt has its number, counted on from the lease's own."""
    seen: list[tuple[int, str]] = []

    def flaky(value: int, context: Context) -> int:
        seen.append((context.attempt, context.idempotency_key))
        if len(seen) < 3:
            raise OSError("again")
        return context.attempt

    assert result(job(flaky, attempts=2, retries=2)) == 4
    assert [attempt for attempt, _ in seen] == [2, 3, 4]
    assert len({key for _, key in seen}) == 1


def test_the_last_failure_is_raised(result: Callable[[Job], Any]) -> None:
    """When no attempt is left, the node's own exception is raised, and the job knows how many there were."""

    def broken(value: int) -> None:
        raise OSError("no disk")

    failing = job(broken, retries=2)
    with pytest.raises(OSError, match="no disk"):
        result(failing)

    assert failing.attempts == 3


def generates() -> Iterator[int]:
    next(iter(()))
    yield 1


def says_no_more() -> None:
    raise StopIteration("mine")


def says_no_price() -> None:
    try:
        next(iter(()))
    except StopIteration as stop:
        raise RuntimeError("no price for today") from stop


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (says_no_more, StopIteration, "mine"),
        (says_no_price, RuntimeError, "no price for today"),
        (lambda: list(generates()), RuntimeError, "generator raised StopIteration"),
    ],
    ids=["a StopIteration", "from a StopIteration", "of a generator"],
)
def test_a_stop_iteration_is_an_error_like_others(
    result: Callable[[Job], Any], body: Callable[[], Any], kind: type[Exception], text: str
) -> None:
    """It is told, and retried, as what the function raised, on whichever thread."""
    calls: list[int] = []

    def ends(value: int) -> None:
        calls.append(value)
        body()

    for wanted, times in ((kind, 3), (KeyError, 1)):
        calls.clear()
        with pytest.raises(Exception, match=text) as caught:
            result(job(ends, retries=2, retry_on=(wanted.__name__,)))
        found = execute.raised(caught.value)
        assert (type(found), str(found), len(calls)) == (kind, text, times)


@pytest.mark.parametrize(
    "error", [errors.BindingError("x"), errors.EncodingError("x"), errors.CodeError("x"), errors.PayloadTooLarge("x")]
)
def test_what_cannot_get_better_is_not_tried_again(result: Callable[[Job], Any], error: Exception) -> None:
    """Errors of binding, encoding, code and size are the same however often they are tried."""
    calls: list[int] = []

    def broken(value: int) -> None:
        calls.append(value)
        raise error

    with pytest.raises(type(error)):
        result(job(broken, retries=5))

    assert len(calls) == 1


class Odd(ConnectionError):
    """An exception of the user's own."""


@pytest.mark.parametrize(
    ("retry_on", "error", "calls"),
    [
        (None, ValueError, 3),
        (("OSError",), OSError, 3),
        (("OSError",), Odd, 3),
        ((f"{__name__}.Odd",), Odd, 3),
        ((f"{__name__}.Odd",), ConnectionError, 1),
        (("KeyError", "ConnectionError"), Odd, 3),
        (("OSError",), ValueError, 1),
        (("Exception",), ValueError, 3),
        (("Exception",), errors.BindingError, 1),
        (("TypeError",), errors.EncodingError, 1),
    ],
)
def test_a_node_is_tried_again_after_what_it_names(
    result: Callable[[Job], Any], retry_on: Any, error: type[Exception], calls: int
) -> None:
    """With ``retry_on`` only its classes and their subclasses are worth another attempt."""
    seen: list[int] = []

    def broken(value: int) -> None:
        seen.append(value)
        raise error("no")

    with pytest.raises(error):
        result(job(broken, retries=2, retry_on=retry_on))

    assert len(seen) == calls


@pytest.mark.parametrize(("retry_on", "calls"), [(("TimeoutError",), 3), (("OSError",), 3), (("KeyError",), 1)])
def test_a_timeout_is_one_of_the_things_to_try_again_after(retry_on: Any, calls: int) -> None:
    """A node that takes longer than its ``timeout`` has failed with a `TimeoutError`, also where it must be killed."""
    seen: list[int] = []

    async def endless(value: int) -> None:
        seen.append(value)
        await asyncio.Event().wait()

    late = job(endless, timeout=0.01, retries=2, retry_on=retry_on)
    with pytest.raises(NodeTimeout):
        asyncio.run(execute.acall(late, unseen, on_thread))

    assert len(seen) == calls
    assert late.timeout_retries == calls - 1


def test_attempts_are_ever_further_apart() -> None:
    """The wait before an attempt doubles from ``retry_delay`` on, up to a hundredfold, and is never the same twice."""
    wait = job(lambda value: value, retries=20, retry_delay=2.0).retry()["wait"]

    def waits(attempt: int) -> list[float]:
        state = types.SimpleNamespace(attempt_number=attempt)
        return [wait(state) for _ in range(20)]

    for attempt, least in ((1, 2.0), (2, 4.0), (3, 8.0), (7, 128.0), (8, 200.0), (20, 200.0)):
        found = waits(attempt)
        assert all(least <= seconds <= least + 2.0 for seconds in found)
        assert len(set(found)) > 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_is_not_tried_again(kind: type[BaseException]) -> None:
    """Only an `Exception` is worth another attempt."""
    calls: list[int] = []

    def broken(value: int) -> None:
        calls.append(value)
        raise kind

    with pytest.raises(kind):
        execute.call(job(broken, retries=5), Loop(), lambda _: contextlib.nullcontext())

    assert len(calls) == 1


def test_data_that_does_not_fit_is_named(result: Callable[[Job], Any]) -> None:
    """Binding happens in the call, with the node's name in the error."""
    with pytest.raises(errors.BindingError, match=r"'it'.*second"):
        result(job(lambda first, second: first, {"first": 1}))


def test_a_value_that_cannot_travel_is_named(result: Callable[[Job], Any]) -> None:
    """What cannot be encoded, or is too large, is named by the node that returned it."""
    with pytest.raises(errors.EncodingError, match=r"node 'it'.*object"):
        result(job(lambda value: object()))
    with pytest.raises(errors.PayloadTooLarge, match="node 'it'"):
        result(job(lambda value: "x" * 200, limit=100))


def test_a_node_knows_that_it_is_one(result: Callable[[Job], Any]) -> None:
    """Inside a node, sync or async, its name is known; outside it is not."""

    async def later(value: int) -> str | None:
        await asyncio.sleep(0)
        return inside.node()

    assert result(job(lambda value: inside.node())) == "it"
    assert result(job(later)) == "it"
    assert inside.node() is None


def test_an_async_node_has_a_timeout() -> None:
    """In a lane of many a node that awaits too long is cancelled, and its ``finally`` runs."""
    ended: list[bool] = []

    async def endless(value: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(NodeTimeout, match=r"'it'.*0\.01 s"):
        asyncio.run(execute.acall(job(endless, timeout=0.01), unseen, on_thread))

    assert ended == [True]


def test_a_timeout_of_the_node_s_own_making_stays() -> None:
    """A `TimeoutError` that the node raises itself is its failure, not its timeout."""

    async def gives_up(value: int) -> None:
        raise TimeoutError("the service")

    with pytest.raises(TimeoutError, match="the service") as caught:
        asyncio.run(execute.acall(job(gives_up, timeout=5.0), unseen, on_thread))

    assert not isinstance(caught.value, NodeTimeout)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_sync_node_has_a_timeout(retries: int) -> None:
    """A node that computes too long is interrupted, tried again where it may be, and fails with its timeout."""
    interrupter = Interrupter()
    calls: list[int] = []

    def endless(value: int) -> None:
        calls.append(value)
        while True:
            pass

    with pytest.raises(NodeTimeout), interrupter.guard(None, lambda: False):
        execute.call(job(endless, timeout=0.01, retries=retries), Loop(), interrupter.limit)

    assert len(calls) == retries + 1


def test_an_interrupt_for_the_block_is_no_timeout() -> None:
    """A node that is stopped because its block has ended is not tried again, and is no failure of its own."""

    def stopped(value: int) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        execute.call(job(stopped, timeout=5.0, retries=3), Loop(), lambda _: contextlib.nullcontext())
