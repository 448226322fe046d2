"""Execute one node: bind, call, encode; with its retries and its timeout. Sync and async share all but the call."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import tenacity

from egregore_dist import errors
from egregore_dist.engine import inside
from egregore_dist.engine.interpret import Value
from egregore_dist.engine.interrupt import Interrupt
from egregore_dist.engine.loop import Loop
from egregore_dist.engine.observer import Observer
from egregore_dist.engine.runtime import Callee
from egregore_dist.engine.threads import Ended
from egregore_dist.engine.turns import Turns
from egregore_dist.resources.recorder import Measure
from egregore_dist.wire import codec
from egregore_dist.workflow import checks, names, spec
from egregore_dist.workflow.context import Context

# Wrong however often it is tried.
_NOT_RETRIED = (errors.BindingError, errors.EncodingError, errors.PayloadTooLarge, errors.CodeError)
_LONGEST_DELAY = 100

#: Calls in vain that one execution tells of, the last ones.
FAILURES_KEPT = 20

#: Makes a context in which what takes more than so many seconds is stopped.
TimeLimit = Callable[[float | None], AbstractContextManager[None]]
#: Calls a function on a thread.
OnThread = Callable[[Callable[[], Any], str], Awaitable[Ended[Any]]]


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that failed and is made again. ``at``: when, on `time.monotonic`; the rest in seconds."""

    node: str
    at: float
    took: float
    waits: float


class Again(Exception):
    """A node with a limit is to be tried again, after so many seconds: it has no place meanwhile."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"node {job.node.name!r} is tried again")
        self.job = job
        self.seconds = seconds


class NodeTimeout(TimeoutError):
    """A node did not end within its own ``timeout``."""


class _Carried(Exception):
    # A StopIteration on its way through coroutines, which Python would make a RuntimeError of.
    def __init__(self, error: StopIteration) -> None:
        self.error = error


def raised(error: BaseException) -> BaseException:
    """What a node raised, by what `acall` did."""
    return error.error if isinstance(error, _Carried) else error


@dataclass(slots=True)
class Job:
    """One call of one node.

    ``context(attempt)`` says where it stands; ``attempts`` counts up from the lease's own, ``calls`` from those of this
    node that cost its branch a process. What it takes is measured where ``measure`` is set. ``branch`` is the position
    of its branch, ``created`` when its run was submitted, and ``here`` where its code is, once it is called. ``waits``
    is told for how many seconds it waits until it is called again. ``began`` is when it was called last, where it may
    be called again; ``failures`` are the calls that failed before.
    """

    node: spec.NodeSpec
    callee: Callee
    value: Value
    context: Callable[[int], Context]
    attempts: int
    payload_limit: int
    calls: int = 1
    measure: Measure | None = None
    branch: int = 0
    created: int = 0
    here: inside.Here | None = None
    observers: Sequence[Observer] = ()
    waits: Callable[[Job, float], None] | None = None
    began: float = 0.0
    failures: tuple[Failed, ...] = ()

    def start(self) -> Any:
        """Bind and call the function; what it returns may have to be awaited."""
        if self.node.retries:
            self.began = time.monotonic()
        if self.measure is not None:
            self.measure.begin()
        context = self.context(self.attempts)
        data = codec.decode(self.value.raw)
        args, kwargs = self.callee.parameters.bind(self.node.name, data, context=context, convert=codec.convert)
        self.here = (context, self.branch, self.created)
        token = inside.current.set(self.here)
        try:
            with self.observed():
                return self.callee.fn(*args, **kwargs)
        finally:
            inside.current.reset(token)

    def observed(self) -> AbstractContextManager[None]:
        """Around the code of the node, in each thread and context that it runs in."""
        return self._observed() if self.observers else nullcontext()

    @contextmanager
    def _observed(self) -> Iterator[None]:
        tokens = [(observer, observer.enter(self)) for observer in self.observers]
        try:
            yield
        finally:
            for observer, token in reversed(tokens):
                observer.leave(token)

    def whole(self) -> Any:
        """Start and finish it on one thread; where what the function returned has to be awaited, only start it."""
        result = self.start()
        if not inspect.isawaitable(result):
            return self.finish(result)
        self.measure = None
        return result

    def finish(self, result: Any) -> Value:
        """Encode what the function returned."""
        raw = codec.encode(result, where=f"the value returned by node {self.node.name!r}", limit=self.payload_limit)
        if self.measure is not None:
            self.measure.end(len(raw))
        for observer in self.observers:
            observer.called()
        return Value(raw)

    def failed(self) -> None:
        """It was called in vain, on this thread."""
        if self.measure is not None:
            self.measure.fail()

    def retry(self) -> dict[str, Any]:
        """What tenacity needs to know of the node's ``retries``."""
        delay = self.node.retry_delay
        longest = min(_LONGEST_DELAY * delay, checks.LONGEST)
        return {
            "stop": tenacity.stop_after_attempt(self.node.retries + 2 - self.calls),
            "wait": tenacity.wait_exponential(delay, max=longest) + tenacity.wait_random(0.0, delay),
            "retry": tenacity.retry_if_exception(self._is_retried),
            "before_sleep": self._count,
            "reraise": True,
        }

    def timed_out(self) -> NodeTimeout:
        """The error of a call that took longer than the node's ``timeout``."""
        return NodeTimeout(f"node {self.node.name!r} did not end within its timeout of {self.node.timeout} s")

    @property
    def timeout_retries(self) -> int:
        """How often the node is tried again after it took longer than its ``timeout``."""
        return self.node.retries if self._is_retried(self.timed_out()) else 0

    def _is_retried(self, error: BaseException) -> bool:
        error = raised(error)
        if not isinstance(error, Exception) or isinstance(error, _NOT_RETRIED):
            return False
        wanted = self.node.retry_on
        return wanted is None or any(names.of_class(kind) in wanted for kind in type(error).__mro__)

    def again(self, error: BaseException) -> Again | None:
        """How a node with a limit is tried again after a failure, or None where it is not."""
        if self.node.limit is None or self.calls > self.node.retries or not self._is_retried(error):
            return None
        self._tell(error)
        delay = self.node.retry_delay
        # As long as `retry` says.
        longest = min(delay * 2.0 ** min(self.calls - 1, _LONGEST_DELAY), _LONGEST_DELAY * delay)
        return Again(self, longest + random.uniform(0.0, delay))  # noqa: S311 - nothing is kept secret by it

    def _count(self, state: tenacity.RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        if error is not None:
            self._tell(error)
        self.attempts += 1
        self.calls += 1
        now = time.monotonic()
        failed = Failed(self.node.name, now, now - (self.began or now), state.upcoming_sleep)
        self.failures, self.began = (*self.failures, failed)[-FAILURES_KEPT:], 0.0
        if self.waits is not None:
            self.waits(self, state.upcoming_sleep)

    def _tell(self, error: BaseException) -> None:
        for observer in self.observers:
            observer.failed(raised(error), timed_out=isinstance(error, NodeTimeout))


def call(job: Job, loop: Loop, limit: TimeLimit) -> Value:
    """Call a node from a sync lane; whatever it raises is raised, or `Again` where it has a limit.

    Args:
        limit: raises `Interrupt` in its body after so many seconds.
    """

    def once() -> Value:
        timeout = job.node.timeout
        started = time.monotonic()
        try:
            with limit(timeout):
                result = job.start()
                if inspect.isawaitable(result):
                    result = loop.run(_awaited(result, job))
        except Interrupt:
            # The other reason is that the block has ended.
            if timeout is None or time.monotonic() - started < timeout:
                raise
            job.failed()
            raise job.timed_out() from None
        except Exception:
            job.failed()
            raise
        return job.finish(result)

    if job.node.retries and job.node.limit is None:
        return tenacity.Retrying(**job.retry())(once)
    try:
        return once()
    except Exception as error:
        if (again := job.again(error)) is not None:
            raise again from error
        raise


async def acall(job: Job, turns: Callable[[Job], Turns], on_thread: OnThread) -> Value:
    """Call a node from a lane of many; whatever it raises is raised, as something that `raised` tells it from.

    Of one that has a limit it may be `Again`.

    Args:
        turns: what sees to each call.
        on_thread: calls what is not async.
    """

    async def once() -> Value:
        deadline = asyncio.timeout(job.node.timeout)
        with turns(job) as turn:
            try:
                async with deadline if job.node.timeout is not None else nullcontext():
                    if job.node.is_async:
                        result = job.start()
                    else:
                        result = _value(await on_thread(partial(turn.whole, job.whole), job.node.name))
                    if isinstance(result, Value):
                        return result
                    if inspect.isawaitable(result):
                        result = await turn.take(_awaited(result, job))
            except Interrupt:
                if not turn.over:
                    raise
                raise job.timed_out() from None
            except TimeoutError:
                if job.node.timeout is None or not deadline.expired():
                    raise
                raise job.timed_out() from None
            except StopIteration as error:
                raise _Carried(error) from None
        return job.finish(result)

    if job.node.retries and job.node.limit is None:
        return await tenacity.AsyncRetrying(**job.retry())(once)
    try:
        return await once()
    except Exception as error:
        if (again := job.again(error)) is not None:
            raise again from error
        raise


def _value(ended: Ended[Any]) -> Any:
    value, error = ended
    if error is not None:
        raise error
    return value


async def _awaited(awaitable: Any, job: Job) -> Any:
    # The body of an async function runs only now, so this is where it must know that it is inside a node.
    inside.current.set(job.here)
    with job.observed():
        return await awaitable
