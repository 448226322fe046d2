"""What is changed, and which tests have to notice."""

from __future__ import annotations

from dataclasses import dataclass

LUA = "egregore_dist/ledger/lua"
LEDGER = "tests/cluster/ledger"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change to one file.

    Attributes:
        name: what is broken.
        file: the file.
        old: the text that is replaced; it occurs there once.
        new: the text in its place.
        tests: arguments of pytest: at least one of these tests must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        name="drop the fence: a commit is taken from whoever makes it",
        file=f"{LUA}/serve.lua",
        old="if redis.call('HGET', L, branch) ~= token then\n    late",
        new="if false then\n    late",
        tests=(f"{LEDGER}/test_serve.py", f"{LEDGER}/test_repair.py"),
    ),
    Mutation(
        name="commit before the result: a branch counts, and its value is not there",
        file=f"{LUA}/serve.lua",
        old="redis.call('HSET', R, branch, payload)",
        new="",
        tests=(f"{LEDGER}/test_serve.py",),
    ),
    Mutation(
        name="rescue by age: a lease is taken back though its worker lives",
        file=f"{LUA}/sweep.lua",
        old="if not said then return",
        new="if not said or NOW - tonumber(select(3, held_by(block, token))) >= 0 then return",
        tests=(f"{LEDGER}/test_repair.py",),
    ),
    Mutation(
        name="a join that is not atomic: the block that is complete stays to be collected by others too",
        file=f"{LUA}/serve.lua",
        old="redis.call('LREM', key('q', parent) .. ':' .. parent_track, 1, branch)",
        new="",
        tests=(f"{LEDGER}/test_nesting.py",),
    ),
    Mutation(
        name="a local clock: a worker tells a deadline by its own",
        file="egregore_dist/engine/place.py",
        old="(record.deadline - now) / 1000",
        new="record.deadline / 1000 - time.time()",
        tests=("tests/faults/test_clocks.py",),
    ),
    Mutation(
        name="a limit that nobody keeps",
        file=f"{LUA}/serve.lua",
        old="if limit > 0 then free = limit -",
        new="if false then free = limit -",
        tests=(f"{LEDGER}/test_serve.py",),
    ),
    Mutation(
        name="attempts without end",
        file=f"{LUA}/_common.lua",
        old="redis.call('HINCRBY', M, 'lost:' .. branch, 1) < attempts",
        new="redis.call('HINCRBY', M, 'lost:' .. branch, 1) < math.huge",
        tests=(f"{LEDGER}/test_repair.py",),
    ),
    Mutation(
        name="a lost reply forgotten: what the lane was leased by it is nobody's",
        file=f"{LUA}/serve.lua",
        old="if held ~= believed then",
        new="if false then",
        tests=(f"{LEDGER}/test_lost_replies.py",),
    ),
    Mutation(
        name="a deadline that only a client keeps",
        file=f"{LUA}/sweep.lua",
        old="if tonumber(deadline) <= NOW then fail(block, 'timeout') end",
        new="",
        tests=(f"{LEDGER}/test_repair.py",),
    ),
    Mutation(
        name="a run that is accepted twice",
        file=f"{LUA}/submit.lua",
        old="if redis.call('EXISTS', K) == 1 then",
        new="if false then",
        tests=(f"{LEDGER}/test_submit.py",),
    ),
    Mutation(
        name="a pause that stops nothing",
        file=f"{LUA}/serve.lua",
        old="if is_paused() then\n  hold",
        new="if false then\n  hold",
        tests=(f"{LEDGER}/test_pause.py",),
    ),
    Mutation(
        name="parked branches that do not count against the limit",
        file=f"{LUA}/open.lua",
        old="redis.call('HINCRBY', P, 'running', 1)",
        new="",
        tests=(f"{LEDGER}/test_nesting.py",),
    ),
    Mutation(
        name="an end that leaves the blocks inside open",
        file=f"{LUA}/_common.lua",
        old="if state ~= 'ok' then redis.call('ZADD', CLOSING, 0, block) end",
        new="",
        tests=(f"{LEDGER}/test_repair.py", f"{LEDGER}/test_nesting.py"),
    ),
    Mutation(
        name="a block below one that has ended, served until it is its turn to be closed",
        file=f"{LUA}/serve.lua",
        old="if state == 'open' and ends_with_another(block) then state = 'cancelled' end",
        new="",
        tests=(f"{LEDGER}/test_slices.py",),
    ),
    Mutation(
        name="a large run that is ended in one call",
        file=f"{LUA}/_common.lua",
        old="while may_close > 0 do",
        new="while true do",
        tests=(f"{LEDGER}/test_slices.py",),
    ),
    Mutation(
        name="a large end that only its caller brings about",
        file=f"{LUA}/_common.lua",
        old="    schedule('tidy', ROOT, NOW + HINT_AFTER)\n    for",
        new="    for",
        tests=(f"{LEDGER}/test_slices.py",),
    ),
    Mutation(
        name="a busy server's answer that comes raw",
        file="egregore_dist/ledger/watch.py",
        old='return _TURNS_AWAY["BUSY"] if str(error).startswith("BUSY ") else None',
        new="return None",
        tests=("tests/unit/ledger/test_watch.py",),
    ),
)
