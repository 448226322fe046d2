"""What the ledger says, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from egregore_dist.workflow import names

RunState = Literal["pending", "running", "paused", "succeeded", "failed", "cancelled"]
#: The streams of a run: what happened, and what its nodes said.
StreamOfRun = Literal["events", "log"]
# A lane that leaves wants no more branches, and another one in its place where some wait.
LEAVE = -1
# The part of its memory from which on a server counts as nearly full, and takes no new run.
NEARLY_FULL = 0.9
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Accepted:
    """The run that has an id after its submission: ``new``, or one that existed before.

    Attributes:
        new: whether this call accepted it.
        epoch: of the server's data.
        waits: whether it waits for its first lane.
        created: when it was submitted, in server milliseconds.
        workflow: the name of its workflow.
        digest: of its input; "" where none was stored.
        state: its state.
    """

    new: bool
    epoch: str
    waits: bool
    created: int
    workflow: str
    digest: str
    state: RunState


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to execute one branch.

    Attributes:
        branch: which.
        attempt: counts its leases that were lost, from 1.
        after: the block that it goes on after, or "" from its start.
        tried: how often ``node`` was called in vain already, each time until its process was killed for its timeout.
        node: the node that this is about, or "".
    """

    branch: int
    attempt: int = 1
    after: str = ""
    tried: int = 0
    node: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A branch of the parent block, leased to the lane that made ``lease.after`` complete."""

    block: str
    track: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class Message:
    """A Celery message that a transition wants published. ``block`` is to be served, or, complete, to be collected.

    ``run`` is "" where it is the run of the transition. ``created``: when it was submitted, server milliseconds.
    """

    kind: str
    block: str
    track: int
    queue: str
    name: str = field(default="", compare=False)
    run: str = ""
    created: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A bucket of a limit is to be looked after so many seconds from now, by the process that is told."""

    bucket: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Tended:
    """What came of looking after a limit: messages, each with its run or of the run that asked, and alarms."""

    messages: tuple[Message, ...] = ()
    alarms: tuple[Alarm, ...] = ()


# Times of a commit that are not known, and those of a branch that went on after a block, which the ledger knows.
UNTIMED, SINCE_BLOCK = (-2, -2), (-1, -1)


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A call of a node that failed, and was made again in the same execution.

    Attributes:
        node: its name.
        ago: microseconds from its end to the execution's, or to the block that it met.
        took: microseconds that it took.
        waited: microseconds until it was made again.
    """

    node: str
    ago: int
    took: int
    waited: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What is told of an execution beside its times, where there is anything to tell.

    Attributes:
        attempt: which it was, from 1, with the calls of its node that failed in it.
        cpu: microseconds of CPU time; -1 where they were not measured.
        memory: by how many bytes its process grew at most; -1 where that was not measured.
        node: the node that it failed at, or "".
        calls: that failed in it before the last one, as far as they are told.
    """

    attempt: int = 1
    cpu: int = -1
    memory: int = -1
    node: str = ""
    calls: tuple[FailedCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of one branch: ``kind`` is "ok" with an encoded value, or "error" with an encoded failure.

    "again": the node with a limit that it begins with is to be tried again; ``payload`` is its calls and its name.
    ``times``: microseconds that it was executed, and that it had waited before; or one of those above.
    """

    branch: int
    kind: Literal["ok", "error", "again"]
    payload: bytes
    times: tuple[int, int] = UNTIMED
    spent: Spent | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """The ledger's answer to a lane. Unless ``state`` is "open" the block has ended, and the lane with it.

    ``resync``: the lane believed otherwise than the ledger, and ``leases`` is all that it holds.
    ``ask_after``: seconds after which a lane of many asks again, since branches wait for a limit; 0 where none do.
    """

    state: str
    leases: tuple[Lease, ...]
    resumed: Resumed | None
    late: int
    messages: tuple[Message, ...]
    resync: bool = False
    alarms: tuple[Alarm, ...] = ()
    ask_after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Branches of one block that the same lanes may serve; ``branches`` is None where it is all of them.

    ``limit``: where they begin with a node that has one: its bucket and its rule, see ``_limits.lua``.
    """

    queue: str
    width: int
    lanes: int
    count: int
    branches: tuple[int, ...] | None = None
    limit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBlock:
    """A block to open. ``timeout`` in seconds; 0 is none, for ``limit`` too. ``input`` may be the block that has it.

    ``since``: for how many seconds the branch that meets it has been executed; ``calls``: that failed meanwhile.
    """

    id: str
    name: str
    path: tuple[int, ...]
    n: int
    limit: int
    timeout: float
    on_error: str
    input: bytes | str
    tracks: tuple[Track, ...]
    since: float = 0.0
    calls: tuple[FailedCall, ...] = ()


class Fields:
    """Fields of a hash, read by name."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    def text(self, name: str) -> str:
        """A text, or ""."""
        return self._raw.get(name.encode(), b"").decode()

    def number(self, name: str) -> int | None:
        """A whole number, or None."""
        value = self._raw.get(name.encode())
        return None if value is None else int(value)

    def seconds(self, name: str) -> float | None:
        """What is kept in milliseconds, or None."""
        value = self.number(name)
        return None if value is None else value / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecord:
    """One block as it stands. Times are server milliseconds, ``timeout`` is seconds.

    ``stopped``: when a lane was last found gone after the end. ``ready``: when it was opened, or by a retry anew.
    ``began``: when the branch was begun that met it. ``limits``: of each track, or "", see `Track`. ``ends_by``: the
    first deadline of the block and those around it.
    """

    id: str
    name: str
    state: str
    path: tuple[int, ...]
    n: int
    done: int
    limit: int
    running: int
    on_error: str
    input: str
    queues: tuple[str, ...]
    widths: tuple[int, ...]
    parent: str | None
    branch: int | None
    track: int
    failed: int | None
    timeout: float | None
    deadline: int | None
    opened: int
    ended: int | None
    stopped: int | None = None
    ready: int = 0
    began: int | None = None
    limits: tuple[str, ...] = ()
    ends_by: int | None = None

    @classmethod
    def of(cls, block: str, fields: Mapping[bytes, bytes]) -> BlockRecord:
        """Read the record from the fields of its hash."""
        said = Fields(fields)
        tracks = range(said.number("tracks") or 0)
        return cls(
            id=block,
            name=said.text("name"),
            state=said.text("state"),
            path=path_of(said.text("path")),
            n=said.number("n") or 0,
            done=said.number("done") or 0,
            limit=said.number("limit") or 0,
            running=said.number("running") or 0,
            on_error=said.text("on_error"),
            input=said.text("input"),
            queues=tuple(said.text(f"queue:{track}") for track in tracks),
            widths=tuple(said.number(f"width:{track}") or 1 for track in tracks),
            parent=said.text("parent") or None,
            branch=said.number("branch"),
            track=said.number("track") or 0,
            failed=said.number("failed"),
            timeout=said.seconds("timeout"),
            deadline=said.number("deadline"),
            opened=said.number("opened") or 0,
            ended=said.number("ended"),
            stopped=said.number("stopped"),
            ready=said.number("reopened") or said.number("opened") or 0,
            began=said.number("began"),
            limits=tuple(said.text(f"limit:{track}") for track in tracks),
            ends_by=said.number("ends_by"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run as it stands. Times are seconds of the server's clock since 1970.

    ``state`` is "paused" whether the run was pending or running. ``epoch`` is that of the data it was submitted to.
    ``rested``: for how many seconds it had ended before it was retried.
    """

    id: str
    state: str
    workflow: str
    created: float
    started: float | None
    ended: float | None
    epoch: str = ""
    rested: float = 0.0

    def ran(self, now: float) -> float:
        """For how many seconds it has run by then; what lay between an end and a retry does not count."""
        return 0.0 if self.started is None else max(0.0, (self.ended or now) - self.started - self.rested)


def path_of(text: str) -> tuple[int, ...]:
    """The path that ``","``-joined positions say."""
    return tuple(int(position) for position in text.split(",")) if text else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What a janitor is told in a round.

    Attributes:
        leads: whether it leads; where another one does, nothing is due.
        server: the server's word for its own life, another one after each start; "" where it does not say.
        entries: of the agenda, as run, kind, block.
        limits: buckets of limits.
        full: whether the server's memory is full, so that nobody can report.
        evicted: keys that it has evicted since its start; -1 where it does not say.
    """

    leads: bool
    server: str = ""
    entries: Sequence[tuple[str, str, str]] = ()
    limits: Sequence[str] = ()
    full: bool = False
    evicted: int = -1


# In the place of a worker's name: the `Presence` of those who say nothing. What they hold since its ``at`` is theirs:
# they may have come after that, or, where it is 0, could not say it.
OTHERS = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a live worker said of its lanes.

    Attributes:
        at: when, in server milliseconds.
        dead: its processes that ended lately.
        pids: those that lived then: a lane of another, that held leases before, is of a former life of its worker. None
            where it did not say.
        lanes: the ids of the lanes that it had then: one that held leases before, and is not among them, has ended.
            None where it did not say.
    """

    at: int
    dead: tuple[int, ...] = ()
    pids: tuple[int, ...] | None = None
    lanes: tuple[str, ...] | None = None


#: Of the texts of a message that was set aside, which a stranger may have written.
ASIDE_BYTES = {"reason": 250, "worker": 260, "queue": 160, "excerpt": 400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A message that was taken off a queue and could not be served. Its texts are harmless, and cut to `ASIDE_BYTES`.

    Attributes:
        reason: why.
        worker: who took it.
        queue: where from; "" where that is not known.
        excerpt: its shape and size: of what is not this package's, nothing of the content is kept.
        at: when, in server milliseconds.
    """

    reason: str
    worker: str
    queue: str = ""
    excerpt: str = ""
    at: int = 0

    def __post_init__(self) -> None:
        for name, limit in ASIDE_BYTES.items():
            object.__setattr__(self, name, names.plain(getattr(self, name), limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """A call that went on after its node's timeout, until its process was killed.

    Attributes:
        branch: that called it.
        node: that was called.
        calls: how often it has been called by now.
        most: how often it may be.
        failure: how the branch fails where this was the last call, encoded.
    """

    branch: int
    node: str
    calls: int
    most: int
    failure: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What follows where a branch's process was killed for want of memory.

    Attributes:
        queue: where the branch waits for its next attempt.
        lanes: that may serve such branches there at a time.
        text: what is reserved from now on, and for whom that is too much.
    """

    queue: str
    lanes: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How a lane ended with its process.

    Attributes:
        verdict: "lost": the branch has cost the process; "stopped": nobody is to blame but its overruns.
        branch: the branch that was executed, or None where that is not known.
        why: how the process ended.
        node: the node that was called, or "".
        overruns: each that there was.
        lacked_memory: whether it was killed for want of memory.
        short: what follows from that, where there is something to do.
    """

    verdict: Literal["lost", "stopped"]
    branch: int | None = None
    why: str = ""
    node: str = ""
    overruns: tuple[Overrun, ...] = ()
    lacked_memory: bool = False
    short: Shortage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A branch that waits where it is before a node of it is called again.

    Attributes:
        block: its block.
        branch: which.
        token: the lane that holds it.
        seconds: until then.
        call: the call that it waits for, from 1.
        most: calls at most.
        node: which is called.
    """

    block: str
    branch: int
    token: str
    seconds: float
    call: int
    most: int
    node: str


@dataclass(frozen=True, slots=True)
class Work:
    """What a process needs to execute branches of a run.

    Attributes:
        workflow: the workflow's name.
        spec: its spec, encoded.
        functions: the references of its functions, encoded.
        queue: the Celery queue of nodes that ask for no other.
        trace: where the run stands in a trace, as `wire.tracing` says it, or "".
        created: when the run was submitted, in server milliseconds: an id may be used again after its run was deleted.
    """

    workflow: str
    spec: bytes
    functions: bytes
    queue: str = ""
    trace: str = ""
    created: int = 0


@dataclass(frozen=True, slots=True)
class Entered:
    """What a lane learns when it comes to a block.

    ``now`` in server milliseconds; ``work`` only if asked for and not known; ``input`` where it was at hand.
    """

    record: BlockRecord
    served: Served
    now: int
    work: Work | None
    input: bytes | None = None
