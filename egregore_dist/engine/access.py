"""What each role needs of a Redis or Valkey server: the ACL files in ``deploy/acl`` and the checks come from this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from egregore_dist import errors
from egregore_dist.ledger.connection import Demoted, reachable
from egregore_dist.settings import Settings

_CONNECTION = ["auth", "client", "echo", "hello", "ping", "quit", "select", "time", "info"]
_READS = [
    "exists",
    "get",
    "getrange",
    "hexists",
    "hget",
    "hgetall",
    "hkeys",
    "hlen",
    "hmget",
    "hscan",
    "hstrlen",
    "llen",
    "lrange",
    "mget",
    "pttl",
    "scard",
    "sismember",
    "smembers",
    "sscan",
    "strlen",
    "ttl",
    "type",
    "xlen",
    "xrange",
    "xread",
    "xrevrange",
    "zcard",
    "zcount",
    "zmscore",
    "zrange",
    "zrangebyscore",
    "zrank",
    "zrevrange",
    "zrevrangebyscore",
    "zscore",
]
_WRITES = [
    "blmove",
    "brpop",
    "decr",
    "del",
    "expire",
    "hdel",
    "hincrby",
    "hset",
    "hsetnx",
    "incr",
    "lpop",
    "lpush",
    "lrem",
    "ltrim",
    "persist",
    "pexpire",
    "rpop",
    "rpush",
    "sadd",
    "scan",
    "set",
    "setex",
    "setnx",
    "spop",
    "srem",
    "unlink",
    "xadd",
    "xdel",
    "xtrim",
    "zadd",
    "zpopmin",
    "zrem",
    "zremrangebyrank",
    "zremrangebyscore",
]
_SCRIPTS = ["eval", "evalsha", "script|exists", "script|load"]
_TRANSACTIONS = ["discard", "exec", "multi", "unwatch", "watch"]
_CHANNELS = ["psubscribe", "publish", "punsubscribe", "subscribe", "unsubscribe"]

#: Commands that are part of what a connection does anyway, or that are asked for by their channels.
UNASKED = frozenset({*_CONNECTION, *_TRANSACTIONS, *_CHANNELS}) - {"time", "info"}

_MULTI = "command multi"
_DISCARD = ("command discard", ("DISCARD",))

# What a command is asked with besides its key, where that is not one word.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "blmove": ("{key}", "{key}", "LEFT", "LEFT", "0.01"),
    "brpop": ("{key}", "0.01"),
    "eval": ("return 1", "1", "{key}"),
    "evalsha": ("0" * 40, "1", "{key}"),
    "script|exists": ("EXISTS", "0" * 40),
    "script|load": ("LOAD", "return 1"),
    "xadd": ("{key}", "*", "f", "v"),
    "xtrim": ("{key}", "MAXLEN", "1"),
    "xread": ("STREAMS", "{key}", "0"),
    "hset": ("{key}", "f", "v"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one kind of process needs.

    Attributes:
        name: the user's name in the ACL files.
        commands: those that it calls.
        keys: patterns of the keys that it touches; ``{prefix}`` and ``{queue}`` are those of the settings.
        channels: patterns of the channels that it publishes to or listens on; ``{db}`` is the broker's database.
    """

    name: str
    commands: tuple[str, ...]
    keys: tuple[str, ...]
    channels: tuple[str, ...] = ()

    def patterns(self, settings: Settings) -> tuple[str, ...]:
        """The key patterns with the prefix and the queue of these settings."""
        return tuple(pattern.format(prefix=settings.prefix, queue=settings.queue) for pattern in self.keys)

    def acl(self, settings: Settings) -> str:
        """The line of an ACL file, with a password that nobody knows in place of one."""
        keys = " ".join(f"~{pattern}" for pattern in self.patterns(settings))
        channels = " ".join(["resetchannels", *(f"&{pattern.format(db=0)}" for pattern in self.channels)])
        return f"user {self.name} on #{'0' * 64} {keys} {channels} -@all {' '.join(f'+{it}' for it in self.commands)}"


_LEDGER, _QUEUES, _BINDINGS, _REPLIES = "{prefix}:*", "{queue}*", "_kombu.binding*", "*.reply.celery.pidbox*"
# Whoever subscribes to a pattern needs one that is the same word by word.
_CONTROL = ("/{db}.celery.pidbox", "/{db}.celeryev*")
_ALL = tuple(sorted({*_CONNECTION, *_READS, *_WRITES, *_SCRIPTS, *_TRANSACTIONS, *_CHANNELS}))

WORKER = Role(
    name="egregore-worker",
    commands=_ALL,
    keys=(_LEDGER, _QUEUES, _BINDINGS, "unacked*", "*celery.pidbox*", "celeryev*"),
    channels=_CONTROL,
)
CLIENT = Role(
    name="egregore-client", commands=_ALL, keys=(_LEDGER, _QUEUES, _BINDINGS, _REPLIES, "unacked*"), channels=_CONTROL
)
VIEWER = Role(
    name="egregore-viewer", commands=tuple(sorted([*_CONNECTION, *_READS, *_TRANSACTIONS])), keys=(_LEDGER, _QUEUES)
)
#: Its buttons submit nothing, and publish what goes on.
OPERATOR = Role(
    name="egregore-operator", commands=_ALL, keys=(_LEDGER, _QUEUES, _BINDINGS, _REPLIES, "unacked*"), channels=_CONTROL
)
ROLES = (WORKER, CLIENT, VIEWER, OPERATOR)


def missing_rights(server: redis.Redis, role: Role, patterns: Iterable[str]) -> list[str]:
    """The rights of a role that the connected user lacks; nothing is executed. Raises what redis-py raises.

    The commands are queued in a transaction that is discarded: a server checks rights when it queues a command.
    """
    database = server.connection_pool.connection_kwargs.get("db") or 0
    questions = list(_questions(role, patterns, [channel.format(db=database) for channel in role.channels]))
    connection: Any = server.connection_pool.get_connection()
    try:
        lacks: list[str] = connection.retry.call_with_retry(
            lambda: _refused(connection, questions), lambda _: connection.disconnect()
        )
    finally:
        server.connection_pool.release(connection)
    return lacks if "multi" in role.commands else [right for right in lacks if right != _MULTI]


def refuse_missing(server: redis.Redis, settings: Settings, role: Role) -> None:
    """Refuse a user of the ledger's server that lacks a right of a role.

    Raises:
        errors.ConfigurationError: the message names the commands and the patterns of keys or channels.
        errors.BrokerUnavailable: the server cannot be reached.
    """
    with reachable():
        lacks = missing_rights(server, role, needed(settings, role))
    if lacks:
        raise errors.ConfigurationError(explain(lacks, role))


def explain(lacks: Iterable[str], role: Role) -> str:
    """The rights that a user lacks, and the cure, as an error's message."""
    return (
        f"the server's user may not use what a {role.name.partition('-')[2]} needs: {', '.join(lacks)}; "
        f"allow it as deploy/acl/{role.name}.acl does"
    )


def needed(settings: Settings, role: Role) -> tuple[str, ...]:
    """The key patterns that a role needs on the ledger's server: those of the broker too, where it is the same."""
    is_one = settings.broker_url is not None and settings.ledger_url is None
    return role.patterns(settings) if is_one else (_LEDGER.format(prefix=settings.prefix),)


def _refused(connection: Any, questions: list[tuple[str, tuple[str, ...]]]) -> list[str]:
    try:
        # Its answer comes first: outside a transaction the commands would be executed.
        connection.send_command("MULTI")
        connection.read_response()
    except redis.exceptions.NoPermissionError:
        return [_MULTI]
    refused = []
    connection.send_packed_command(connection.pack_commands([command for _, command in [*questions, _DISCARD]]))
    for right, _ in [*questions, _DISCARD]:
        try:
            connection.read_response()
        except redis.exceptions.NoPermissionError:
            refused.append(right)
        except (redis.exceptions.ResponseError, Demoted):
            pass  # allowed, and no such command, or other arguments, or a server that takes no write
    if _DISCARD[0] in refused:
        connection.disconnect()
    return refused


def _questions(role: Role, patterns: Iterable[str], channels: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is asked for, and the command that asks: each command with the first pattern, one with each other."""
    first, *others = patterns

    yield f"keys {first}", ("EXISTS", _sample(first))
    for command in role.commands:
        if command not in UNASKED:
            yield f"command {command}", _command(command, _sample(first))
    for pattern in others:
        yield f"keys {pattern}", ("EXISTS", _sample(pattern))
    if len(others) > 0:
        for channel in channels:
            yield f"channels {channel}", ("PSUBSCRIBE", channel)


def _command(command: str, key: str) -> tuple[str, ...]:
    if command in ("time", "info"):
        return (command.upper(),)
    arguments = _ARGUMENTS.get(command, ("{key}", "1", "1"))
    name = command.partition("|")[0].upper()
    if command not in _ARGUMENTS and command in _ONE_ARGUMENT:
        arguments = ("{key}",)
    elif command not in _ARGUMENTS and command in _TWO_ARGUMENTS:
        arguments = ("{key}", "1")
    return (name, *(it.format(key=key) for it in arguments))


_ONE_ARGUMENT = frozenset(
    [
        "decr",
        "del",
        "exists",
        "get",
        "hgetall",
        "hkeys",
        "hlen",
        "incr",
        "llen",
        "mget",
        "persist",
        "pttl",
        "scard",
        "smembers",
        "spop",
        "strlen",
        "ttl",
        "type",
        "unlink",
        "xlen",
        "zcard",
        "zpopmin",
    ]
)
_TWO_ARGUMENTS = frozenset(
    [
        "expire",
        "hdel",
        "hexists",
        "hget",
        "hmget",
        "hscan",
        "hstrlen",
        "lpop",
        "lpush",
        "pexpire",
        "rpop",
        "rpush",
        "sadd",
        "set",
        "setnx",
        "sismember",
        "srem",
        "sscan",
        "zmscore",
        "zrank",
        "zrem",
        "zscore",
    ]
)


def _sample(pattern: str) -> str:
    return pattern.replace("*", "egregore-access")
