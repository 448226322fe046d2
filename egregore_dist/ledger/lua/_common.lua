-- What every transition shares. Prepended to each script; a transition is one script, so it is atomic.
--
-- KEYS[1]  <prefix>:{run}     the run's record; every other key of the run starts with it (one hash slot)
-- KEYS[2]  <prefix>:agenda    zset "<run> <kind> <block>" -> server ms: what must happen, and when, if nobody did it first.
--                             kind "deadline": the block's end; kind "hint": see whether its messages were lost;
--                             kind "tidy", of block "0": go on with what one call could not do, see go_on
-- KEYS[3]  <prefix>:runs      zset run -> created, server ms
--           <prefix>:queues    zset derived queue -> when a lane was last sent to it, server ms. Such a queue says in its name
--                             what its lanes need of a worker ("<queue>@..."); workers that have it find it here, and
--                             consume it. Of QUEUES_KEPT the one that was not used for longest makes room: whoever asks
--                             for a lane again, as janitors do where none comes, names it again
--
-- Keys of a run, K = KEYS[1]:
--   K             hash    state, workflow, spec, functions, created, ended, retention, epoch (see submit.lua), paused (since
--                         when it is, server ms; an end takes it away), rested (ms between ends and retries),
--                         ending (how it ends, once that is decided, and until all below it is closed), tidy ("<what> <cursor in K:blocks>": what is done to all its keys),
--                         series (see _counts.lua), retried (when it was last), trace (where it stands in a trace, if in any),
--                         digest (of its input, where its id was chosen), lost (1 once part of it is found to be lost, see sweep.lua)
--   K:code        hash    digest -> signed code of the functions that travel by value
--   K:blocks      set     every block of the run;  K:open  set  those that have not ended
--   K:closing     zset    blocks that have ended badly, while those below them may not have been closed yet
--   K:b:<block>   hash    the block's record, see open.lua
--   K:i:<block>   string  its input, once; a block whose input is an ancestor's refers to that one
--   K:q:<block>:<track>   list   branches to lease before the untouched ones: given back, resumed, or listed one by one
--   K:l:<block>   hash    <branch> -> token of the lane that leases it, or "*": parked;
--                         "@<token>" -> "<held>:<width>:<track>:<since when it holds any, server ms>"
--   K:m:<block>   hash    marks: at:<branch> (the child block it stands at), track:<branch> (where there are several),
--                         lost:<branch> (leases lost), why:<branch> (how they were) and died:<branch> (at what node),
--                         tried:<branch> ("<calls> <node>": of a node whose timeout cost its process), again:<branch> (the
--                         same, of a node with a limit that is to be tried again), place:<branch> (see _limits.lua),
--                         beside:<branch> (how often the process ended for timeouts of others), sole:<branch> (its process
--                         was at it when that ended, or may have been, and lacked memory), crowd:<branch> (it was one of many
--                         whose process lacked memory: how many of those may run together, 0 for as many as before). None of
--                         losses once a block has ended well at which it stood
--   K:r:<block>   hash    <branch> -> encoded value;  K:e:<block>  hash  <branch> -> encoded failure
--   K:end         list    one entry, the state, when the run ends;  K:events  stream  what happened, bounded
--   K:waits       zset    packed { block, branch, token, call, calls at most, node } -> until when the branch waits before its
--                         node is called again, server ms, see backoff.lua
--   K:log         stream  what nodes said, bounded;  K:said  hash  how much that was, see log.lua
--
-- A block is "open" until it ends, once, as "ok", "error", "timeout" or "cancelled". One whose record says "open" below one
-- that is in K:closing has ended too: see state_of.
-- Block "0" is the whole workflow as a block of one branch; a child is "<parent>.<branch>-<path>".

local K, AGENDA, RUNS = KEYS[1], KEYS[2], KEYS[3]
local RUN = string.match(K, '{(.*)}')
local ROOT, PARKED = '0', '*'
local HINT_AFTER, HINT_AT_MOST, LANES_AT_MOST, EVENTS_KEPT = 2000, 60000, 100, 10000

-- How much one call does at most, since nobody else is served meanwhile: blocks that are closed, or whose keys are told to
-- expire, to stay or to go; and blocks that are opened again.
local SLICE, REOPENED_AT_MOST = 1000, 200

local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function key(kind, block) return K .. ':' .. kind .. ':' .. block end

-- Pass a list of any length to a function, 1000 values a call: Lua cannot unpack more than some 8,000 at once.
local function in_parts(list, call, first, last)
  last = last or #list
  for i = first or 1, last, 1000 do call(unpack(list, i, math.min(i + 999, last))) end
end

-- Limits by name, see _limits.lua: limits() has its functions, which are made when first asked for, since most transitions
-- need none. Then whether what it has touched has to be settled, alarms for the caller, flat, and whether it is told of them.
local limits, unsettled, alarms, can_arm

-- Give back the place of a branch, if it has one.
local function release(block, branch)
  if redis.call('HEXISTS', key('m', block), 'place:' .. branch) == 1 then limits().release(block, branch) end
end

-- Until when nothing is leased, since the server evicts keys, server ms; see due.lua.
local EVICTIONS = string.sub(AGENDA, 1, -7) .. 'evictions'
local function held_until()
  local ends = tonumber(redis.call('HGET', EVICTIONS, 'until') or 0)
  return ends > NOW and ends or nil
end

local function is_paused() return redis.call('HEXISTS', K, 'paused') == 1 end

-- The run's state as everybody outside sees it, or "" where there is no such run.
local function status() return is_paused() and 'paused' or redis.call('HGET', K, 'state') or '' end

-- Messages that the caller shall publish, flat: "lane" or "collect", block, track, queue, name of the block, run ("": this
-- one), when that was submitted.
-- None for a paused run: resume.lua asks for what is needed then.
local publish, MESSAGE_PARTS, submitted = {}, 7, nil

-- Whether the run that somebody means is not there: none is, the janitor has found that part of it is lost, or it was deleted
-- or has expired, and another run has its id. "": whichever has it. Then whether it has ended, and whether it is paused.
local function is_gone(created)
  local its, lost, ended, paused = unpack(redis.call('HMGET', K, 'created', 'lost', 'ended', 'paused'))
  return not its or lost or (created ~= '' and its ~= created), ended, paused
end

local QUEUES, QUEUES_KEPT = string.sub(AGENDA, 1, -7) .. 'queues', 256

-- A lane will be sent to this queue.
local function will_use(queue)
  if string.find(queue, '@', 1, true) then
    redis.call('ZADD', QUEUES, NOW, queue)
    redis.call('ZREMRANGEBYRANK', QUEUES, 0, -QUEUES_KEPT - 1)
  end
end

local function ask(kind, block, track, queue)
  if is_paused() then return end
  will_use(queue)
  local name = redis.call('HGET', key('b', block), 'name')
  submitted = submitted or redis.call('HGET', K, 'created') or '0'
  for _, part in ipairs({ kind, block, tostring(track), queue, name, '', submitted }) do publish[#publish + 1] = part end
end

local function ask_lane(block, track) ask('lane', block, track, redis.call('HGET', key('b', block), 'queue:' .. track)) end

-- The branches of a track that nobody leases.
local function waiting(block, track)
  local fresh, stop = unpack(redis.call('HMGET', key('b', block), 'next:' .. track, 'stop:' .. track))
  return tonumber(stop or 0) - tonumber(fresh or 0) + redis.call('LLEN', key('q', block) .. ':' .. track)
end

-- The same, but none where they wait for places of a limit: then lanes are called when there is one.
local function waiting_for_lanes(block, track)
  local named = redis.call('HGET', key('b', block), 'limit:' .. track)
  return named and limits().awaits(named, block, track) and 0 or waiting(block, track)
end

-- As many lanes as the block was planned with, where so many branches wait.
local function ask_lanes(block)
  for track = 0, tonumber(redis.call('HGET', key('b', block), 'tracks')) - 1 do
    local lanes = tonumber(redis.call('HGET', key('b', block), 'lanes:' .. track))
    for _ = 1, math.min(lanes, waiting(block, track), LANES_AT_MOST) do ask_lane(block, track) end
  end
end

-- Lanes for slots that have come free: those that found no room have left.
local function ask_for_slots(block, slots)
  if slots <= 0 then return end
  for track = 0, tonumber(redis.call('HGET', key('b', block), 'tracks')) - 1 do
    local lanes = math.min(slots, waiting_for_lanes(block, track))
    for _ = 1, lanes do ask_lane(block, track) end
    slots = slots - lanes
  end
end

-- A collect goes to the queue where the parent's branch may run.
local function ask_collect(block)
  local parent, track = unpack(redis.call('HMGET', key('b', block), 'parent', 'track'))
  ask('collect', block, 0, redis.call('HGET', key('b', parent), 'queue:' .. track))
end

local function event(name, ...)
  redis.call('XADD', K .. ':events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', name, ...)
end

local function schedule(kind, block, at) redis.call('ZADD', AGENDA, at, RUN .. ' ' .. kind .. ' ' .. block) end

-- An entry of an open block, brought forward; never put off, however often this is called.
local function hint_soon(block) redis.call('ZADD', AGENDA, 'LT', NOW + HINT_AFTER, RUN .. ' hint ' .. block) end

-- Part of the run is lost: nothing of it goes on, and a janitor has it forgotten, see sweep.lua.
local function lose_run()
  redis.call('HSET', K, 'lost', 1)
  hint_soon(ROOT)
end

local function unschedule(block) redis.call('ZREM', AGENDA, RUN .. ' deadline ' .. block, RUN .. ' hint ' .. block) end

local function held_by(block, token)
  local known = redis.call('HGET', key('l', block), '@' .. token) or '0:1:0:' .. NOW
  local held, width, _, since = string.match(known, '(%d+):(%d+):(%d+):(%d+)')
  return tonumber(held), tonumber(width), since
end

local function among(list, wanted)
  for _, member in ipairs(list) do
    if tostring(member) == wanted then return true end
  end
  return false
end

-- Why a lane that holds something since then is gone, or nil; `workers` as in sweep.lua. One that was restarted under its
-- name is given the messages of its former life again: so a lane is known by its process, too.
local function how_it_ended(workers, token, since)
  if not workers then return nil end
  local worker, pid, lane = string.match(token, '^(.*)/(%d+)/([^/.]*)')
  local said, others = workers[worker], workers['']
  if not said then
    if others and tonumber(since) >= others.at then return nil end
    return 'its worker ended, or lost the server'
  end
  if among(said.dead, pid) then return 'its process ended' end
  -- What has begun since then was not asked about.
  if tonumber(since) >= said.at then return nil end
  if type(said.pids) == 'table' and not among(said.pids, pid) then return 'its process ended' end
  if type(said.lanes) == 'table' and not among(said.lanes, lane) then
    return 'its lane ended without giving it back'
  end
  return nil
end

-- Slots that a lane takes of the block's limit: it runs at most `width` of the branches that it holds.
local function hold(block, token, track, before, held, width)
  local leases = key('l', block)
  if held > 0 then
    local _, _, since = held_by(block, token)
    redis.call('HSET', leases, '@' .. token, held .. ':' .. width .. ':' .. track .. ':' .. since)
  else
    redis.call('HDEL', leases, '@' .. token)
  end
  local change = math.min(held, width) - before
  if change ~= 0 then redis.call('HINCRBY', key('b', block), 'running', change) end
end

local CLOSING, BLOCKS = K .. ':closing', K .. ':blocks'

-- Whether a block has ended with one above it, though it was not its turn to be closed yet; of this run, or of another.
local function ends_with_another(block, closing)
  closing = closing or CLOSING
  if redis.call('EXISTS', closing) == 0 then return false end
  local dot = string.find(block, '.', 1, true)
  while dot do
    if redis.call('ZSCORE', closing, string.sub(block, 1, dot - 1)) then return true end
    dot = string.find(block, '.', dot + 1, true)
  end
  return false
end

-- A block's state, or nil where there is no such block.
local function state_of(block)
  local state = redis.call('HGET', key('b', block), 'state')
  return state == 'open' and ends_with_another(block) and 'cancelled' or state or nil
end

local KINDS_OF_KEYS = { 'b', 'i', 'l', 'm', 'r', 'e' }

local function keys_of(block)
  local found = {}
  for track = 0, tonumber(redis.call('HGET', key('b', block), 'tracks') or 1) - 1 do
    found[#found + 1] = key('q', block) .. ':' .. track
  end
  for _, kind in ipairs(KINDS_OF_KEYS) do found[#found + 1] = key(kind, block) end
  return found
end

local function keys_of_run()
  local found = {}
  for i, suffix in ipairs({ ':code', ':blocks', ':open', ':end', ':events', ':log', ':said', ':waits', '' }) do found[i] = K .. suffix end
  return found
end

-- What is being done to all keys of the run, and how far it has come; or nil.
local function tidying() return string.match(redis.call('HGET', K, 'tidy') or '', '^(%a+) (%d+)$') end

-- Delete keys of the run. The record goes last, so that the id is taken until nothing of the run is left. Returns whether it is.
local function delete_some()
  for _, block in ipairs(redis.call('SPOP', BLOCKS, SLICE)) do
    in_parts(keys_of(block), function(...) redis.call('UNLINK', ...) end)
  end
  if redis.call('EXISTS', BLOCKS) == 1 then
    redis.call('HSET', K, 'tidy', 'delete 0')
    return false
  end
  redis.call('UNLINK', CLOSING, unpack(keys_of_run()))
  redis.call('ZREM', RUNS, RUN)
  return true
end

-- Have keys of the run "expire", or "keep" them. Returns whether that was all.
local function tidy_some(what, cursor)
  local retention, next_cursor, blocks = redis.call('HGET', K, 'retention'), unpack(redis.call('SSCAN', BLOCKS, cursor, 'COUNT', SLICE))
  local function act(names)
    for _, name in ipairs(names) do
      if what == 'keep' then redis.call('PERSIST', name) else redis.call('PEXPIRE', name, retention) end
    end
  end
  for _, block in ipairs(blocks) do act(keys_of(block)) end
  if next_cursor ~= '0' then
    redis.call('HSET', K, 'tidy', what .. ' ' .. next_cursor)
    return false
  end
  redis.call('HDEL', K, 'tidy')
  act(keys_of_run())
  return true
end

-- A retry opens a block again.
local function opened_at(block)
  local opened, again = unpack(redis.call('HMGET', key('b', block), 'opened', 'reopened'))
  return tonumber(again or opened or NOW)
end

-- Block "0" is the run, and its one branch too: they are counted as that.
local function count_block(block, state)
  observe('block', NOW - opened_at(block))
  if state == 'ok' then return end
  local ended = redis.call('HLEN', key('r', block)) + redis.call('HLEN', key('e', block))
  local outcome = state == 'timeout' and 'timeout' or 'cancelled'
  count('branches:' .. outcome, math.max(0, tonumber(redis.call('HGET', key('b', block), 'n')) - ended))
end

-- Of a run that is traced, whoever ends a block makes its span: a message "ended" tells the caller of it.
local is_traced
local function tell_ended(block)
  if is_traced == nil then is_traced = redis.call('HEXISTS', K, 'trace') == 1 end
  if not is_traced then return end
  for _, part in ipairs({ 'ended', block, '0', '', '', '', '0' }) do publish[#publish + 1] = part end
end

local function close(block, state)
  if block ~= ROOT then count_block(block, state) end
  redis.call('HSET', key('b', block), 'state', state, 'ended', NOW)
  redis.call('SREM', K .. ':open', block)
  if state ~= 'ok' then
    redis.call('ZADD', CLOSING, 0, block)
    if redis.call('HEXISTS', key('b', block), 'limited') == 1 then limits().watch(block) end
  end
  unschedule(block)
  event('block.ended', 'block', block, 'state', state)
  tell_ended(block)
end

-- Close what is below blocks that have ended badly. Every open child has a parked branch, so this costs what is below them,
-- not what the run has. The last in K:closing is among the deepest, so that what is there at a time does not grow with the run.
local may_close = SLICE
local function close_some()
  while may_close > 0 do
    local block = redis.call('ZREVRANGE', CLOSING, 0, 0)[1]
    if not block then return end
    local B = key('b', block)
    local cursor, leases = unpack(redis.call('HSCAN', key('l', block), redis.call('HGET', B, 'closing') or 0, 'COUNT', SLICE))
    may_close = may_close - 1
    for i = 1, #leases, 2 do
      local child = leases[i + 1] == PARKED and redis.call('HGET', key('m', block), 'at:' .. leases[i])
      if child and redis.call('HGET', key('b', child), 'state') == 'open' then
        close(child, 'cancelled')
        may_close = may_close - 1
      end
    end
    if cursor == '0' then
      redis.call('HDEL', B, 'closing')
      redis.call('ZREM', CLOSING, block)
    else
      redis.call('HSET', B, 'closing', cursor)
    end
  end
end

-- Go on with what has been decided: close what is below blocks that ended badly, end the run once all is closed, and then
-- have its keys expire. What is more than one call may do is asked for: a message "tidy" has the caller call again, and where
-- it does not, a janitor does.
local function go_on()
  close_some()
  local done = redis.call('EXISTS', CLOSING) == 0
  local state = done and redis.call('HGET', K, 'ending')
  if state then
    local started, retried = unpack(redis.call('HMGET', K, 'started', 'retried'))
    observe('run:' .. state, NOW - tonumber(retried or started or NOW))
    redis.call('HSET', K, 'state', state, 'ended', NOW, 'tidy', 'expire 0')
    redis.call('HDEL', K, 'paused', 'ending')
    -- Blocks that it does not know of any more: a janitor has them expire, see sweep.lua.
    if redis.call('SISMEMBER', BLOCKS, ROOT) == 0 then schedule('hint', ROOT, NOW) end
    event('run.ended', 'state', state)
    redis.call('RPUSH', K .. ':end', state)
  end
  if done then
    local what, cursor = tidying()
    if what == 'delete' then
      done = delete_some()
    elseif what == 'expire' then
      done = tidy_some(what, cursor)
    elseif what == 'keep' then
      return
    end
  end
  if done then
    redis.call('ZREM', AGENDA, RUN .. ' tidy ' .. ROOT)
  else
    schedule('tidy', ROOT, NOW + HINT_AFTER)
    for _, part in ipairs({ 'tidy', ROOT, '0', '', '', '', '0' }) do publish[#publish + 1] = part end
  end
end

local function end_run(state)
  redis.call('HSET', K, 'ending', state)
  go_on()
end

local function failed_with(block, branch)
  event('branches.ended', 'block', block, 'ok', cmsgpack.pack({}), 'error', cmsgpack.pack({ tonumber(branch) }))
end

-- A lane of a block that has ended is there no more: the last one to say so says how long stopping took.
local function left(block, token)
  if redis.call('HDEL', key('l', block), '@' .. token) == 1 then
    redis.call('HSET', key('b', block), 'stopped', NOW)
    if redis.call('HEXISTS', key('b', block), 'limited') == 1 then limits().release_all(block, token) end
  end
end

local function give_back(block, branch)
  release(block, branch)
  redis.call('HDEL', key('l', block), branch)
  redis.call('LPUSH', key('q', block) .. ':' .. (redis.call('HGET', key('m', block), 'track:' .. branch) or 0), branch)
end

-- A leased branch ends with a failure that its lane did not commit: "lost" or "timeout".
local function fail_branch(block, branch, outcome, failure)
  if block ~= ROOT then count('branches:' .. outcome, 1) end
  release(block, branch)
  redis.call('HDEL', key('l', block), branch)
  redis.call('HSET', key('e', block), branch, failure)
  redis.call('HSETNX', key('b', block), 'failed', branch)
  failed_with(block, branch)
end

-- Which attempt of a branch it is, after so many leases were lost and after calls of its mark `again` or `tried`.
local function attempt_from(lost, calls)
  return tonumber(lost or 0) + tonumber(string.match(calls or '', '^%d+') or 0) + 1
end

local function attempt_at(block, branch)
  local lost, tried, again = unpack(redis.call('HMGET', key('m', block), 'lost:' .. branch, 'tried:' .. branch, 'again:' .. branch))
  return attempt_from(lost, again or tried)
end

-- A leased branch lost its lane, which ended as `why` says, at `node` or "". It is leased again, first of all; the last of
-- `attempts` times it ends as lost; where that was for want of memory, `about` says more. Returns how many branches have
-- ended: 0 or 1.
local function lose(block, branch, attempts, why, node, about)
  local M = key('m', block)
  local before, died = unpack(redis.call('HMGET', M, 'why:' .. branch, 'died:' .. branch))
  event('branch.lost', 'block', block, 'branch', branch, 'lane', redis.call('HGET', key('l', block), branch), 'why', why,
    'attempt', attempt_at(block, branch), 'node', node)
  count('lost', 1)
  if before then why = string.find(before, why, 1, true) and before or before .. '; ' .. why end
  if node == '' then node = died or '' end
  if redis.call('HINCRBY', M, 'lost:' .. branch, 1) < attempts then
    redis.call('HSET', M, 'why:' .. branch, why, 'died:' .. branch, node)
    give_back(block, branch)
    return 0
  end
  local message = 'it was lost ' .. attempts .. ' times: ' .. why
  if about and about ~= '' then message = 'out of memory: ' .. message .. '; ' .. about end
  fail_branch(block, branch, 'lost', cmsgpack.pack({ kind = 'lost', type = 'WorkerLost', attempt = attempts,
    node = node ~= '' and node or nil, message = message }))
  return 1
end

local RUN_STATE = { ok = 'succeeded', error = 'failed', timeout = 'failed', cancelled = 'cancelled' }

-- Whether each of so many branches that have ended has a value or a failure.
local function has_results(block, done)
  return redis.call('HLEN', key('r', block)) + redis.call('HLEN', key('e', block)) == tonumber(done)
end

-- End `block` well: its parent's branch may go on where it stood. It is first in its queue, and its slot is free until it is
-- leased. Returns `block`, or nil where it was the whole run.
local function complete(block)
  if not has_results(block, redis.call('HGET', key('b', block), 'n')) then return lose_run() end
  close(block, 'ok')
  if block == ROOT then
    end_run('succeeded')
    return nil
  end
  local parent, branch, track = unpack(redis.call('HMGET', key('b', block), 'parent', 'branch', 'track'))
  redis.call('HDEL', key('l', parent), branch)
  -- What has cost it a process before it came here has been done.
  redis.call('HDEL', key('m', parent), 'lost:' .. branch, 'why:' .. branch, 'died:' .. branch, 'sole:' .. branch,
    'crowd:' .. branch)
  redis.call('HINCRBY', key('b', parent), 'running', -1)
  redis.call('LPUSH', key('q', parent) .. ':' .. track, branch)
  hint_soon(parent)
  return block
end

local function fail_up(block, state)
  while true do
    close(block, state)
    close_some()
    if block == ROOT then return redis.call('HSET', K, 'ending', RUN_STATE[state]) end
    local parent, branch = unpack(redis.call('HMGET', key('b', block), 'parent', 'branch'))
    redis.call('HSET', key('e', parent), branch, cmsgpack.pack({ block = block }))
    if parent ~= ROOT then count('branches:error', 1) end
    redis.call('HDEL', key('l', parent), branch)
    redis.call('HINCRBY', key('b', parent), 'running', -1)
    failed_with(parent, branch)
    local on_error, n = unpack(redis.call('HMGET', key('b', parent), 'on_error', 'n'))
    if on_error == 'collect' then
      if redis.call('HINCRBY', key('b', parent), 'done', 1) < tonumber(n) then
        hint_soon(parent)
        return ask_for_slots(parent, 1)
      end
      if complete(parent) then ask_collect(parent) end
      return
    end
    redis.call('HSETNX', key('b', parent), 'failed', branch)
    block, state = parent, 'error'
  end
end

-- End `block` badly, and with it what depends on it: its descendants, and its ancestors up to one that collects errors.
local function fail(block, state)
  fail_up(block, state)
  go_on()
end

-- Branches of an open block have failed, so many of them: end the block if they were the last, or ends with them. Returns
-- whether it has ended.
local function settle(block, failed)
  if failed == 0 then return false end
  local on_error, n = unpack(redis.call('HMGET', key('b', block), 'on_error', 'n'))
  if on_error ~= 'collect' then
    fail(block, 'error')
    return true
  end
  if redis.call('HINCRBY', key('b', block), 'done', failed) < tonumber(n) then return false end
  if complete(block) then ask_collect(block) end
  return true
end

-- A block is opened now: its deadline begins, within those of the blocks around it. Returns its own, or 0.
local function set_deadline(block)
  local B = key('b', block)
  local timeout, parent = unpack(redis.call('HMGET', B, 'timeout', 'parent'))
  local ends_by, ends_with
  if parent then ends_by, ends_with = unpack(redis.call('HMGET', key('b', parent), 'ends_by', 'ends_with')) end
  local deadline = 0
  if timeout then
    deadline = NOW + tonumber(timeout)
    redis.call('HSET', B, 'deadline', deadline)
    schedule('deadline', block, deadline)
    if not ends_by or deadline < tonumber(ends_by) then ends_by, ends_with = deadline, block end
  end
  if ends_by then redis.call('HSET', B, 'ends_by', ends_by, 'ends_with', ends_with) end
  return deadline
end

-- Marks that a retry forgets.
local OF_ATTEMPTS = {
  lost = true, why = true, died = true, sole = true, crowd = true, tried = true, beside = true, again = true
}

-- Open again a block that did not end well, see retry.lua, and those below it, as many as one call may. A branch that waits
-- while the block that it stands at has not ended well is one whose block there was no room for yet.
local reopened = 0
local function reopen(block)
  reopened = reopened + 1
  if redis.call('HEXISTS', key('b', block), 'tracks') == 0 then return lose_run() end
  set_deadline(block)
  local B, L, E, M, R = key('b', block), key('l', block), key('e', block), key('m', block), key('r', block)
  local started = redis.call('HKEYS', L)
  for _, branch in ipairs(redis.call('HKEYS', E)) do started[#started + 1] = branch end
  redis.call('DEL', L, E)
  for _, mark in ipairs(redis.call('HKEYS', M)) do
    if OF_ATTEMPTS[string.match(mark, '^%a+')] then redis.call('HDEL', M, mark) end
  end
  local limit, tracks = unpack(redis.call('HMGET', B, 'limit', 'tracks'))
  local parked, queued, waits = 0, {}, {}
  limit = tonumber(limit)
  for _, branch in ipairs(started) do
    if string.sub(branch, 1, 1) ~= '@' and not queued[branch] and redis.call('HEXISTS', R, branch) == 0 then
      queued[branch] = true
      local has_room = (limit == 0 or parked < limit) and reopened < REOPENED_AT_MOST
      local child = has_room and redis.call('HGET', M, 'at:' .. branch)
      if child and redis.call('HGET', key('b', child), 'state') ~= 'ok' then
        redis.call('HSET', L, branch, PARKED)
        parked = parked + 1
        reopen(child)
      else
        local track = tracks ~= '1' and redis.call('HGET', M, 'track:' .. branch) or '0'
        waits[track] = waits[track] or {}
        table.insert(waits[track], branch)
      end
    end
  end
  for track, list in pairs(waits) do
    in_parts(list, function(...) redis.call('RPUSH', key('q', block) .. ':' .. track, ...) end)
  end
  redis.call('HSET', B, 'state', 'open', 'running', parked, 'done', redis.call('HLEN', R), 'reopened', NOW)
  redis.call('HDEL', B, 'ended', 'stopped', 'failed', 'hinted', 'ask_after')
  redis.call('SADD', K .. ':open', block)
  event('block.opened', 'block', block, 'name', redis.call('HGET', B, 'name'), 'n', redis.call('HGET', B, 'n'))
  schedule('hint', block, NOW + HINT_AFTER)
  ask_lanes(block)
end
