"""What is fuzzed: a decoder, valid inputs to begin with, and the exceptions that it documents."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl

import msgspec

from egregore_dist import errors, node, parallel
from egregore_dist.client.events import Event
from egregore_dist.ledger import Aside, replies, runlist, waits
from egregore_dist.ledger.keys import Keys
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.monitor import guard, lists, live, logs, users
from egregore_dist.monitor.sessions import Sessions
from egregore_dist.monitor.users import Users
from egregore_dist.resources import profile, report
from egregore_dist.wire import code, codec, failure, orders, signing, tracing
from egregore_dist.worker import envelope
from egregore_dist.workflow import describe, spec
from egregore_dist.workflow.parallel import MAX_BRANCHES
from tests.support.secret import secret_of

SECRET = signing.Signer([secret_of("fuzz").encode()])

_LANE = "egregore.lane"

SESSIONS = Sessions(Users({}))
ORDERS = orders.Orders(SECRET, "w@h")


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder.

    Attributes:
        run: decodes bytes, and does with the result what the product does with it.
        seeds: valid inputs.
        documented: the exceptions that ``run`` may raise.
    """

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    documented: tuple[type[Exception], ...] = (errors.EncodingError,)


@node
def sample(x: int) -> int:
    """A node of the sample workflow."""
    return x


def _values(raw: bytes) -> object:
    return repr(codec.decode(raw))


def _entries(raw: bytes) -> object:
    entries = codec.split(raw)
    return [entries.value(at) for at in range(len(entries))], repr(entries.keys)


def _failure(raw: bytes) -> object:
    decoded = failure.decode(raw)
    exc = failure.rebuild(decoded)
    return repr(exc), str(exc), repr(failure.to_branch_error(decoded, "branch"))


def _workflow(raw: bytes) -> object:
    return [spec.children(step) for step in spec.children(spec.decode(raw).root)]


def _references(raw: bytes) -> object:
    return code.Loader(SECRET, {}).references(raw)


def _function(raw: bytes) -> object:
    return code.Loader(SECRET, {}).load(f"v:{hashlib.sha256(raw).hexdigest()}", raw)


def _reference(raw: bytes) -> object:
    return code.Loader(SECRET, {}).load(raw.decode("utf-8", "replace"))


def _signed(raw: bytes) -> object:
    return SECRET.open("code", raw)


def _message(raw: bytes) -> object:
    try:
        headers, body = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        return None
    return envelope.fault(_LANE, headers, body) if isinstance(headers, dict) else None


def _report(raw: bytes) -> object:
    return repr(report.read([raw], now=0, ttl=10.0))


def _profile(raw: bytes) -> object:
    return repr(profile.decode(raw))


def _trace(raw: bytes) -> object:
    return repr(tracing.read(raw.decode("utf-8", "replace")))


def _aside(raw: bytes) -> object:
    return repr(msgspec.msgpack.decode(raw, type=Aside))


def _event(raw: bytes) -> object:
    fields = msgspec.msgpack.decode(raw, type=dict[str, bytes])
    return repr(Event.of("1-0", fields))


def _positions(raw: bytes) -> object:
    return replies.unpack_positions(raw), replies.unpack_failed(raw)


def _reply(raw: bytes) -> Any:
    """A server's answer: what cannot be decoded is none."""
    try:
        return msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return None


def _served(raw: bytes) -> object:
    reply = _reply(raw)
    # The script writes each of the branches that it counts into the ledger before it answers.
    if isinstance(reply, list) and len(reply) > 2 and isinstance(reply[2], int) and reply[2] > MAX_BRANCHES:
        return None
    return repr(replies.served(reply))


def _messages(raw: bytes) -> object:
    return repr(replies.tended(_reply(raw)))


class _Server:
    """A ledger whose server gives these answers, one to each batch of commands."""

    def __init__(self, *answers: Any) -> None:
        self.keys = Keys("fuzz")
        self.redis = self
        self._answers = iter(answers)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name == "pipeline":
            return lambda **_: self
        return (lambda *_: next(self._answers)) if name in ("execute", "zrange", "zmscore") else lambda *_, **__: self


def _waits(raw: bytes) -> object:
    server = _Server([[(raw, 1.0)], 1], [b"token", (b"name", b"open")] if waits._decoded(raw) else [])
    return repr(waits._retries(cast(Ledger, server), "run", 0))


def _agenda(raw: bytes) -> object:
    entries = raw.split(b"\n")
    runs = {run for run, _, _ in replies.agenda(entries)}
    return repr(runlist._going_on(cast(Ledger, _Server(entries, [1.0] * len(runs)))))


def _query(raw: bytes) -> object:
    query = dict(parse_qsl(raw.decode("utf-8", "replace")))
    runs, lines = lists.Filters.of(query), logs.Filters.of(query)
    again = lists.Filters.of(dict(parse_qsl(runs.address(runs.before).partition("?")[2])))
    assert again == runs
    return repr((runs.wanted, lines.wanted)), lines.address("run", lines.before)


def _form(raw: bytes) -> object:
    form = parse_qs(raw.decode(), max_num_fields=guard._FIELDS_AT_MOST, keep_blank_values=True)
    address = guard._own(form.get("next", ["/"])[0])
    # A page here, and of no other host.
    assert address.startswith("/")
    assert not address.startswith("//")
    return address, lists.Filters.of(dict(parse_qsl(form.get("filters", [""])[0])))


def _cookie(raw: bytes) -> object:
    assert SESSIONS.find(raw.decode("utf-8", "surrogatepass")) is None
    known = live._known(raw.decode("latin-1"))
    assert known.isascii()
    return known


def _orders(raw: bytes) -> object:
    # As it comes, and signed: what a holder of the secret may send by mistake.
    answers = []
    for text in (raw.decode("utf-8", "replace"), base64.b64encode(SECRET.sign("control", raw)).decode()):
        with contextlib.suppress(errors.CodeError):
            answers.append(ORDERS.take("drain", text, life="life", now=1, act=lambda **arguments: {"ok": arguments}))
    return answers


def _users(raw: bytes) -> object:
    return repr(users.parse(raw.decode("utf-8", "replace"), Path("users")))


def _caused() -> BaseException:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ExceptionGroup("group", [ValueError("first"), OSError(2, "second")]) from error
    except ExceptionGroup as error:
        error.add_note("a note")
        return error


def _encoded(values: Iterable[Any]) -> tuple[bytes, ...]:
    return tuple(codec.encode(value, where="a seed") for value in values)


_BRANCH = errors.BranchError(("key", 1), type="ValueError", message="m", node="n", traceback="t", attempt=2)
_SIGNED = SECRET.sign("code", msgspec.msgpack.encode(((3, 11), "f", pickle.dumps(len))))
_REPORT = report.Report(
    worker="w@h", host="h", pid=1, slots=2, cores=2.0, queues=("q",), at=1, memory_available=1, memory_total=2
)
_BLOCKS = parallel(sample, sample.alias("b")).map() >> sample
_ID = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

_FAILED = [3, 4, "node", 1, 2, 3]
_EVENTS = (
    {"event": b"branches.leased", "block": b"0", "lane": b"w@h/1/2", "branches": msgspec.msgpack.encode([1, 2])},
    {"event": b"x", "error": b"\x91\x03", "took": b"\x91\x05", "failures": msgspec.msgpack.encode(_FAILED)},
    {"event": b"x", "branch": b"3", "attempt": b"2", "node": b"n"},
)
_PUBLISH = [b"lane", b"0", b"0", b"queue", b"name", b"run", b"1700000000000"]
_SERVED = (
    [b"ok", 0, 2, [b"3", b"1", b"", b"2 node"], [b"0", b"0", b"1", b"1", b"", b""], 0, _PUBLISH, [b"0", b"5"], 250],
    [b"ended", 0, 0, [], [], 1, [], [], 0],
)
_TENDED: tuple[Any, ...] = ([_PUBLISH, [b"0", b"1700000000000"]], [[], []])
# What a reader of a damaged event gets: nothing is made of it.
_DAMAGED = (msgspec.MsgspecError, ValueError, TypeError)

TARGETS: dict[str, Target] = {
    "values": Target(_values, _encoded([None, 1, "text", b"b", [1, {"a": [2.5]}], {1: _BRANCH}, {(1, "a"): 3}])),
    "entries": Target(_entries, _encoded([[1, "a", [2]], {"a": 1, 2: [3], (1, 2): 4}])),
    "failure": Target(
        _failure,
        tuple(
            failure.encode(failure.Failure.of(exc, node="n", attempt=1))
            for exc in (_caused(), ValueError("m"), OSError(2, "no", "file"), errors.CodeError("refused"))
        ),
    ),
    "workflow": Target(
        _workflow,
        tuple(
            describe.describe(step).encoded for step in (sample, parallel(sample, sample.alias("b")).map() >> sample)
        ),
        (msgspec.MsgspecError,),
    ),
    "references": Target(
        _references,
        tuple(code.encode_references(["m:a:b", "m:c:d"], signer) for signer in (SECRET, signing.Signer([]))),
        (msgspec.MsgspecError,),
    ),
    "function": Target(_function, (_SIGNED,), (errors.CodeError,)),
    "reference": Target(_reference, (b"m:os:system", b"v:" + b"0" * 64), (errors.CodeError,)),
    "signed": Target(_signed, (_SIGNED,), (errors.CodeError,)),
    "message": Target(
        _message,
        (json.dumps([{"id": "a", "retries": 0}, [["r" * 32, "0", 0], {}, {"chord": None}]]).encode(),),
        (),
    ),
    "report": Target(_report, (msgspec.msgpack.encode(_REPORT),), ()),
    "profile": Target(_profile, (profile.encode(profile.Profile()),), ()),
    "trace": Target(_trace, (_ID.encode(), f"{_ID} a=b,c=d".encode()), ()),
    "event": Target(_event, tuple(map(msgspec.msgpack.encode, _EVENTS)), _DAMAGED),
    "positions": Target(_positions, tuple(map(msgspec.msgpack.encode, ([], _FAILED))), _DAMAGED),
    "served": Target(_served, tuple(map(msgspec.msgpack.encode, _SERVED))),
    "messages": Target(_messages, tuple(map(msgspec.msgpack.encode, _TENDED))),
    "waits": Target(_waits, (msgspec.msgpack.encode(("0", 1, "token", 2, 3, "node")),), ()),
    "agenda": Target(_agenda, (b"run hint 0\nother end 0",), ()),
    "query": Target(
        _query, (b"state=running&since=2026-01-02T03:04&before=12-run", b"block=0&branch=1&before=1-0"), ()
    ),
    "form": Target(
        _form, (b"next=/runs/a%3Fx=1&name=n&password=p", b"action=cancel&run=a&filters=state%3Dfailed"), (ValueError,)
    ),
    "cookie": Target(_cookie, (b"A" * 43, b"1700000000000-0"), (UnicodeDecodeError,)),
    "orders": Target(
        _orders,
        (
            orders.give(SECRET, "drain", {}, worker="w@h", life="life", at=1).encode(),
            msgspec.msgpack.encode(orders.Order("drain", {"slots": 2}, "w@h", "life", 1, "nonce")),
        ),
        (),
    ),
    "users": Target(
        _users,
        (f"# people\nann:admin:{users.hash_password('a long one')}\n".encode(),),
        (errors.ConfigurationError,),
    ),
    "aside": Target(
        _aside,
        (msgspec.msgpack.encode(Aside(reason="r", worker="w", excerpt="e")),),
        (msgspec.MsgspecError, UnicodeDecodeError),
    ),
}
