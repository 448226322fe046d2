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
        name="a lane serves whatever run has the id of its own",
        file=f"{LUA}/serve.lua",
        old="if is_another(created) then",
        new="if false then",
        tests=("tests/cluster/test_reused_ids.py", f"{LEDGER}/test_reused_ids.py"),
    ),
    Mutation(
        name="others are called while their branches are still leased to who called them",
        file="egregore_dist/engine/lane.py",
        old="                at[1].share(calls=False)\n",
        new="                pass\n",
        tests=("tests/unit/engine/test_lane.py",),
    ),
    Mutation(
        name="what a branch started outlives it",
        file="egregore_dist/engine/lane.py",
        old="                leftovers.end()\n",
        new="",
        tests=("tests/faults/test_processes.py", "-k", "started_ends or begins_anew"),
    ),
    Mutation(
        name="what a branch started outlives its process",
        file="egregore_dist/worker/warden.py",
        old="            self._orphans.died(child.reader.path)\n",
        new="",
        tests=("tests/faults/test_processes.py", "-k", "killed"),
    ),
    Mutation(
        name="a branch that counts, and its value is not there",
        file=f"{LUA}/serve.lua",
        old="redis.call('HSET', R, branch, payload)",
        new="",
        tests=(f"{LEDGER}/test_serve.py",),
    ),
    Mutation(
        # The script is one change to others: what is seen of its order is what the end of a block does to its values.
        name="commit before the result: the value is written when the block that it completes has ended",
        file=f"{LUA}/serve.lua",
        old="redis.call('HSET', R, branch, payload)",
        new="local told = answer\n"
        "      answer = function(...) redis.call('HSET', R, branch, payload) return told(...) end",
        tests=(f"{LEDGER}/test_after_the_end.py",),
    ),
    Mutation(
        name="ack before settle: a message is acknowledged when its lane begins",
        file="egregore_dist/engine/tasks.py",
        old='"acks_late": True',
        new='"acks_late": False',
        tests=("tests/faults/test_server.py", "-k", "holds_messages"),
    ),
    Mutation(
        name="rescue by age: a lease is taken back though its worker lives",
        file=f"{LUA}/_common.lua",
        old="  if not said then\n    if others and",
        new="  if not said or NOW - tonumber(since) >= 0 then\n    if others and",
        tests=(f"{LEDGER}/test_repair.py",),
    ),
    Mutation(
        name="a worker that came after a janitor's look is taken for dead",
        file=f"{LUA}/_common.lua",
        old="if others and tonumber(since) >= others.at then",
        new="if others and others.at == 0 then",
        tests=(f"{LEDGER}/test_sweeper.py",),
    ),
    Mutation(
        name="a server that was started anew is taken for one that never was away",
        file="egregore_dist/worker/sweeper.py",
        old="if due.full or due.server != self._server:",
        new="if due.full:",
        tests=(f"{LEDGER}/test_sweeper.py",),
    ),
    Mutation(
        name="a process that waits for the ledger is held up",
        file="egregore_dist/engine/board.py",
        old="            self._waits += 1\n",
        new="",
        tests=("tests/unit/worker/test_warden.py",),
    ),
    Mutation(
        name="a lane of a worker's former life is taken for one that lives",
        file=f"{LUA}/_common.lua",
        old="if type(said.pids) == 'table' and not among(said.pids, pid) then return 'its process ended' end",
        new="",
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
        old="(record.ends_by - now) / 1000",
        new="record.ends_by / 1000 - time.time()",
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
        old="if is_paused() then\n  note_held",
        new="if false then\n  note_held",
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
        old="    redis.call('ZADD', CLOSING, 0, block)\n",
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
        name="a connection to a former primary is kept",
        file="egregore_dist/ledger/connection.py",
        old="    if code in _DEMOTED:\n",
        new="    if False:\n",
        tests=("tests/unit/ledger/test_connection.py",),
    ),
    Mutation(
        name="a server that evicts keys holds a ledger",
        file="egregore_dist/ledger/fitness.py",
        old="    if evicts(said):\n",
        new="    if False:\n",
        tests=("tests/cluster/test_unfit_servers.py",),
    ),
    Mutation(
        name="a busy server's answer that comes raw",
        file="egregore_dist/ledger/connection.py",
        old='return _TURNS_AWAY["BUSY"] if str(error).startswith("BUSY ") else None',
        new="return None",
        tests=("tests/unit/ledger/test_connection.py",),
    ),
    Mutation(
        name="the parent of a complete block is not looked after",
        file="egregore_dist/ledger/lua/_common.lua",
        old="  hint_soon(parent)\n  return block\n",
        new="  return block\n",
        tests=("tests/cluster/ledger/test_repair.py",),
    ),
    Mutation(
        name="a long branch is told from those beside it at the end only where the end is far",
        file="egregore_dist/engine/lane.py",
        old=" or leaving.told() or _ends_soon(place):",
        new=" or leaving.told():",
        tests=("tests/cluster/test_ends.py::test_a_deadline_tells_what_ended_from_what_ran",),
    ),
    Mutation(
        name="a node's own alarm stops its branch as if its time were over",
        file="egregore_dist/engine/lane.py",
        old="            if interrupter.is_stray and place",
        new="            if False and place",
        tests=("tests/cluster/test_ends.py::test_an_alarm_without_a_handler_is_a_failure",),
    ),
    Mutation(
        name="turn: a lane of many never stays beyond its turn",
        file="egregore_dist/engine/lane.py",
        old="            self._turn.extend(held, most)\n",
        new="            pass\n",
        tests=("tests/unit/engine/test_lane.py",),
    ),
    Mutation(
        name="turn: a lane of one branch at a time does not tell when it has come",
        file="egregore_dist/engine/lane.py",
        old="raise Interrupt\n                self._turn.came()",
        new="raise Interrupt",
        tests=("tests/unit/engine/test_lane.py",),
    ),
    Mutation(
        name="turn: a lane of many does not tell when it has come",
        file="egregore_dist/engine/lane.py",
        old="raise Interrupt\n            self._turn.came()",
        new="raise Interrupt",
        tests=("tests/unit/engine/test_lane.py",),
    ),
    Mutation(
        name="serve: a lane that gives back and goes on asks for another",
        file="egregore_dist/ledger/lua/serve.lua",
        old="if releases > 0 and believed > 0 and width == 1",
        new="if releases > 0 and held > 0 and width == 1",
        tests=("tests/cluster/ledger/test_serve.py",),
    ),
    Mutation(
        name="turn: coming does not count",
        file="egregore_dist/engine/turn.py",
        old="now + min(_COMING * took, max(_COMING_MOST, min(took, _AS_LONG)))",
        new="now",
        tests=("tests/unit/engine/test_turn.py",),
    ),
    Mutation(
        name="intake: a drained worker consumes on its next connection",
        file="egregore_dist/worker/intake.py",
        old="if intake.reasons():",
        new="if not intake:",
        tests=("tests/unit/worker/test_intake.py",),
    ),
    Mutation(
        name="plan: the slots of drained workers count",
        file="egregore_dist/resources/router.py",
        old="for said in self.reports if not said.holds)",
        new="for said in self.reports)",
        tests=("tests/unit/resources/test_router.py",),
    ),
    Mutation(
        name="tuner: memory that varies changes the number of lanes",
        file="egregore_dist/resources/capacity.py",
        old="share=1 - MARGIN",
        new="share=1.0",
        tests=("tests/unit/resources/test_steady.py",),
    ),
    Mutation(
        name="turn: a lane does not look whether others wait",
        file="egregore_dist/engine/lane.py",
        old="return leaving.told() or self._turn.is_over()",
        new="return leaving.told()",
        tests=("tests/cluster/test_fairness.py", "-k", "small_run"),
    ),
    Mutation(
        name="threads: at its deadline one waits for the ledger to say so",
        file="egregore_dist/engine/lane.py",
        old="return place.left() == 0 or not place.holds(lease.branch, self._token)",
        new="return not place.holds(lease.branch, self._token)",
        tests=("tests/unit/engine/test_lane.py",),
    ),
    Mutation(
        name="threads: who is cancelled does not stop its thread",
        file="egregore_dist/engine/threads.py",
        old="        stops = True\n        raiser.hurry(thread.ident)\n",
        new="",
        tests=("tests/unit/engine/test_threads.py",),
    ),
    Mutation(
        name="threads: one does not ask whether it is lost",
        file="egregore_dist/engine/threads.py",
        old="lambda: stops or is_lost()",
        new="lambda: stops",
        tests=("tests/unit/engine/test_threads.py",),
    ),
    Mutation(
        name="threads: a StopIteration is not retried",
        file="egregore_dist/engine/execute.py",
        old="        error = raised(error)\n",
        new="",
        tests=("tests/unit/engine/test_execute.py",),
    ),
    Mutation(
        name="overdue: the board shows one call",
        file="egregore_dist/engine/board.py",
        old="            count, size = count + 1, size + len(said)\n",
        new="            count, size = count + 1, size + len(said)\n            break\n",
        tests=("tests/unit/engine/test_board.py",),
    ),
    Mutation(
        name="overdue: the warden judges one call",
        file="egregore_dist/worker/warden.py",
        old="for call in _overdue(note, child.killed))",
        new="for call in _overdue(note, child.killed)[:1])",
        tests=("tests/faults/test_stop.py", "-k", "same_time"),
    ),
    Mutation(
        name="overdue: calls on threads are watched when their loop says so",
        file="egregore_dist/engine/turns.py",
        old="            # process is killed.\n            self._watch()\n",
        new="            pass\n",
        tests=("tests/faults/test_stop.py", "-k", "kept and holds_the_gil_on_a_thread"),
    ),
    Mutation(
        name="overdue: others are begun beside them",
        file="egregore_dist/engine/lane.py",
        old="self._leaves() or self._runtime.board.is_overdue",
        new="self._leaves()",
        tests=("tests/unit/engine/test_lane.py",),
    ),
    Mutation(
        name="overdue: a branch is given back for others without end",
        file=f"{LUA}/serve.lua",
        old="local BESIDE_AT_MOST = 2",
        new="local BESIDE_AT_MOST = 1000",
        tests=(f"{LEDGER}/test_lost.py",),
    ),
    Mutation(
        name="overdue: those that are called again run beside others",
        file=f"{LUA}/serve.lua",
        old="company == 'alone' or company ~= group",
        new="company == 'alone'",
        tests=(f"{LEDGER}/test_lost.py",),
    ),
    Mutation(
        name="overdue: those that are called again run one by one",
        file=f"{LUA}/serve.lua",
        old="(tried and width == 1)",
        new="tried",
        tests=(f"{LEDGER}/test_lost.py",),
    ),
    Mutation(
        name="a limit that does not count who holds its places",
        file=f"{LUA}/_limits.lua",
        old="concurrent - redis.call('ZCARD', of('h', bucket))",
        new="concurrent",
        tests=(f"{LEDGER}/test_limits.py", f"{LEDGER}/test_limits_property.py"),
    ),
    Mutation(
        name="a place that comes free, and nobody who waits for it is called",
        file=f"{LUA}/_limits.lua",
        old="    call_for(bucket, room)",
        new="",
        tests=(f"{LEDGER}/test_limits.py",),
    ),
    Mutation(
        name="a place that is given to whoever asks, and not to who waits",
        file=f"{LUA}/_limits.lua",
        old="math.min(places, starts) - before)",
        new="math.min(places, starts))",
        tests=(f"{LEDGER}/test_limits.py",),
    ),
    Mutation(
        name="a track that was called in vain, and is forgotten",
        file=f"{LUA}/_limits.lua",
        old="      redis.call('ZADD', AGENDA, 'LT', NOW, run .. ' hint ' .. block)",
        new="",
        tests=(f"{LEDGER}/test_limits.py",),
    ),
    Mutation(
        name="losses of a run that count however far it has come",
        file=f"{LUA}/_common.lua",
        old="'lost:' .. branch, 'why:' .. branch, 'died:' .. branch, 'sole:' .. branch,",
        new="'sole:' .. branch,",
        tests=(f"{LEDGER}/test_repair.py", "-k", "goes_on"),
    ),
    Mutation(
        name="branches of a dead worker that run one at a time",
        file=f"{LUA}/serve.lua",
        old="local LOST_BESIDE_AT_MOST = 2",
        new="local LOST_BESIDE_AT_MOST = 1",
        tests=(f"{LEDGER}/test_repair.py", "-k", "as_wide"),
    ),
    Mutation(
        name="a branch that has cost a process, and runs beside others",
        file=f"{LUA}/lost.lua",
        old="if is_known or lacks then",
        new="if false then",
        tests=(f"{LEDGER}/test_lost.py",),
    ),
    Mutation(
        name="branches that lacked memory together, and run together again",
        file=f"{LUA}/lost.lua",
        old="math.floor(#together / 2)",
        new="#together",
        tests=(f"{LEDGER}/test_lost.py", "-k", "halved"),
    ),
    Mutation(
        name="a block that goes on as wide as when its process lacked memory",
        file=f"{LUA}/lost.lua",
        old="if not were_fewer then",
        new="if false then",
        tests=(f"{LEDGER}/test_lost.py", "-k", "memory or together"),
    ),
    Mutation(
        name="a lane that counts for what its track has become",
        file=f"{LUA}/serve.lua",
        old="math.max(width, math.min(held, held_width))",
        new="width",
        tests=(f"{LEDGER}/test_lost.py", "-k", "goes_on"),
    ),
    Mutation(
        name="a place in a block that ended badly, looked after by nobody",
        file=f"{LUA}/_common.lua",
        old="then limits().watch(block) end",
        new="then end",
        tests=(f"{LEDGER}/test_limits.py",),
    ),
    Mutation(
        name="a lane of many that stays for as long as others wait",
        file="egregore_dist/engine/turn.py",
        old="self._until, self._drain = now + _STAY * may_cost, _MORE * may_cost",
        new="self._until = now + _STAY * may_cost",
        tests=("tests/unit/engine/test_turn.py",),
    ),
    Mutation(
        name="a place without a lease that is kept",
        file=f"{LUA}/tend.lua",
        old="if not held then redis.call('ZREM'",
        new="if false then redis.call('ZREM'",
        tests=(f"{LEDGER}/test_limits.py",),
    ),
    Mutation(
        name="a call of a limited node that is made again, counted as the end of its branch",
        file=f"{LUA}/serve.lua",
        old="count('again', again_soon)",
        new="count('branches:error', again_soon)",
        tests=(f"{LEDGER}/test_counts.py",),
    ),
    Mutation(
        name="a message of a repair that expires: by a clock that is wrong, none is served",
        file="egregore_dist/engine/publish.py",
        old="made = compiler.lane(app, of, block, message.track, queue, name=message.name, created=created)",
        new="made = compiler.lane(app, of, block, message.track, queue, expires=30.0)",
        tests=("tests/faults/test_clocks.py::test_what_a_repair_publishes_never_expires",),
    ),
    Mutation(
        name="an error that tells of one failure where two are known",
        file="egregore_dist/engine/outcome.py",
        old="            for branch, raw in failures.items()\n        }\n",
        new="            for branch, raw in [*failures.items()][:1]\n        }\n",
        tests=("tests/cluster/test_engine.py::test_every_failure_that_is_known_is_told",),
    ),
)
