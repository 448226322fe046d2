-- What every transition shares. Prepended to each script; a transition is one script, so it is atomic.
--
-- KEYS[1]  <prefix>:{run}     the run's record; every other key of the run starts with it (one hash slot)
-- KEYS[2]  <prefix>:agenda    zset "<run> <kind> <block>" -> server ms: what must happen, and when, if nobody did it first.
--                             kind "deadline": the block's end; kind "hint": see whether its messages were lost
-- KEYS[3]  <prefix>:runs      zset run -> created, server ms
--
-- Keys of a run, K = KEYS[1]:
--   K             hash    state, workflow, spec, functions, created, ended, retention, epoch (see submit.lua), paused (since
--                         when it is, server ms; an end takes it away)
--   K:code        hash    digest -> signed code of the functions that travel by value
--   K:blocks      set     every block of the run;  K:open  set  those that have not ended
--   K:b:<block>   hash    the block's record, see open.lua
--   K:i:<block>   string  its input, once; a block whose input is an ancestor's refers to that one
--   K:q:<block>:<track>   list   branches to lease before the untouched ones: given back, resumed, or listed one by one
--   K:l:<block>   hash    <branch> -> token of the lane that leases it, or "*": parked;
--                         "@<token>" -> "<held>:<width>:<track>:<since when it holds any, server ms>"
--   K:m:<block>   hash    marks: at:<branch> (the child block it stands at), track:<branch> (where there are several),
--                         lost:<branch> (leases lost), why:<branch> (how they were) and died:<branch> (at what node),
--                         tried:<branch> ("<calls> <node>": of a node whose timeout cost its process)
--   K:r:<block>   hash    <branch> -> encoded value;  K:e:<block>  hash  <branch> -> encoded failure
--   K:end         list    one entry, the state, when the run ends;  K:events  stream  what happened, bounded
--
-- A block is "open" until it ends, once, as "ok", "error", "timeout" or "cancelled".
-- Block "0" is the whole workflow as a block of one branch; a child is "<parent>.<branch>-<path>".

local K, AGENDA, RUNS = KEYS[1], KEYS[2], KEYS[3]
local RUN = string.match(K, '{(.*)}')
local ROOT, PARKED = '0', '*'
local HINT_AFTER, HINT_AT_MOST, LANES_AT_MOST, EVENTS_KEPT = 2000, 60000, 100, 10000

local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function key(kind, block) return K .. ':' .. kind .. ':' .. block end

local function is_paused() return redis.call('HEXISTS', K, 'paused') == 1 end

-- The run's state as everybody outside sees it, or "" where there is no such run.
local function status() return is_paused() and 'paused' or redis.call('HGET', K, 'state') or '' end

-- Messages that the caller shall publish, flat: "lane" or "collect", block, track, queue, name of the block.
-- None for a paused run: resume.lua asks for what is needed then.
local publish = {}

local function ask(kind, block, track, queue)
  if is_paused() then return end
  local name = redis.call('HGET', key('b', block), 'name')
  for _, part in ipairs({ kind, block, tostring(track), queue, name }) do publish[#publish + 1] = part end
end

local function ask_lane(block, track) ask('lane', block, track, redis.call('HGET', key('b', block), 'queue:' .. track)) end

-- The branches of a track that nobody leases.
local function waiting(block, track)
  local fresh, stop = unpack(redis.call('HMGET', key('b', block), 'next:' .. track, 'stop:' .. track))
  return tonumber(stop or 0) - tonumber(fresh or 0) + redis.call('LLEN', key('q', block) .. ':' .. track)
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
    local lanes = math.min(slots, waiting(block, track))
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

local function unschedule(block) redis.call('ZREM', AGENDA, RUN .. ' deadline ' .. block, RUN .. ' hint ' .. block) end

local function held_by(block, token)
  local known = redis.call('HGET', key('l', block), '@' .. token) or '0:1:0:' .. NOW
  local held, width, _, since = string.match(known, '(%d+):(%d+):(%d+):(%d+)')
  return tonumber(held), tonumber(width), since
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

local KINDS_OF_KEYS = { 'b', 'i', 'l', 'm', 'r', 'e' }

local function every_key(act)
  for _, block in ipairs(redis.call('SMEMBERS', K .. ':blocks')) do
    local tracks = tonumber(redis.call('HGET', key('b', block), 'tracks') or 1)
    for track = 0, tracks - 1 do act(key('q', block) .. ':' .. track) end
    for _, kind in ipairs(KINDS_OF_KEYS) do act(key(kind, block)) end
  end
  for _, suffix in ipairs({ ':code', ':blocks', ':open', ':end', ':events', '' }) do act(K .. suffix) end
end

local function end_run(state)
  redis.call('HSET', K, 'state', state, 'ended', NOW)
  redis.call('HDEL', K, 'paused')
  event('run.ended', 'state', state)
  redis.call('RPUSH', K .. ':end', state)
  local retention = redis.call('HGET', K, 'retention')
  every_key(function(name) redis.call('PEXPIRE', name, retention) end)
end

local function close(block, state)
  redis.call('HSET', key('b', block), 'state', state, 'ended', NOW)
  redis.call('SREM', K .. ':open', block)
  unschedule(block)
  event('block.ended', 'block', block, 'state', state)
end

-- Every open child has a parked branch, so this costs what is below the block, not what the run has.
local function close_descendants(block)
  local leases = redis.call('HGETALL', key('l', block))
  for i = 1, #leases, 2 do
    if leases[i + 1] == PARKED then
      local child = redis.call('HGET', key('m', block), 'at:' .. leases[i])
      close(child, 'cancelled')
      close_descendants(child)
    end
  end
end

local function failed_with(block, branch)
  event('branches.ended', 'block', block, 'ok', cmsgpack.pack({}), 'error', cmsgpack.pack({ tonumber(branch) }))
end

-- A lane of a block that has ended is there no more: the last one to say so says how long stopping took.
local function left(block, token)
  if redis.call('HDEL', key('l', block), '@' .. token) == 1 then redis.call('HSET', key('b', block), 'stopped', NOW) end
end

local function give_back(block, branch)
  redis.call('HDEL', key('l', block), branch)
  redis.call('LPUSH', key('q', block) .. ':' .. (redis.call('HGET', key('m', block), 'track:' .. branch) or 0), branch)
end

-- A leased branch ends with a failure that its lane did not commit.
local function fail_branch(block, branch, failure)
  redis.call('HDEL', key('l', block), branch)
  redis.call('HSET', key('e', block), branch, failure)
  redis.call('HSETNX', key('b', block), 'failed', branch)
  failed_with(block, branch)
end

-- A leased branch lost its lane, which ended as `why` says, at `node` or "". It is leased again, first of all; the last of
-- `attempts` times it ends as lost. Returns how many branches have ended: 0 or 1.
local function lose(block, branch, attempts, why, node)
  local M = key('m', block)
  local before, died = unpack(redis.call('HMGET', M, 'why:' .. branch, 'died:' .. branch))
  event('branch.lost', 'block', block, 'branch', branch, 'lane', redis.call('HGET', key('l', block), branch), 'why', why)
  if before then why = string.find(before, why, 1, true) and before or before .. '; ' .. why end
  if node == '' then node = died or '' end
  if redis.call('HINCRBY', M, 'lost:' .. branch, 1) < attempts then
    redis.call('HSET', M, 'why:' .. branch, why, 'died:' .. branch, node)
    give_back(block, branch)
    return 0
  end
  fail_branch(block, branch, cmsgpack.pack({ kind = 'lost', type = 'WorkerLost', attempt = attempts,
    node = node ~= '' and node or nil, message = 'it was lost ' .. attempts .. ' times: ' .. why }))
  return 1
end

local RUN_STATE = { ok = 'succeeded', error = 'failed', timeout = 'failed', cancelled = 'cancelled' }

-- End `block` well: its parent's branch may go on where it stood. It is first in its queue, and its slot is free until it is
-- leased. Returns `block`, or nil where it was the whole run.
local function complete(block)
  close(block, 'ok')
  if block == ROOT then
    end_run('succeeded')
    return nil
  end
  local parent, branch, track = unpack(redis.call('HMGET', key('b', block), 'parent', 'branch', 'track'))
  redis.call('HDEL', key('l', parent), branch)
  redis.call('HINCRBY', key('b', parent), 'running', -1)
  redis.call('LPUSH', key('q', parent) .. ':' .. track, branch)
  hint_soon(parent)
  return block
end

-- End `block` badly, and with it what depends on it: its descendants, and its ancestors up to one that collects errors.
local function fail(block, state)
  while true do
    close(block, state)
    close_descendants(block)
    if block == ROOT then return end_run(RUN_STATE[state]) end
    local parent, branch = unpack(redis.call('HMGET', key('b', block), 'parent', 'branch'))
    redis.call('HSET', key('e', parent), branch, cmsgpack.pack({ block = block }))
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

-- Marks that a retry forgets.
local OF_ATTEMPTS = { lost = true, why = true, died = true, tried = true }

-- Open again a block that did not end well, see retry.lua. A branch that waits while the block that it stands at has not
-- ended well is one whose block there was no room for yet.
local function reopen(block)
  local B, L, E, M, R = key('b', block), key('l', block), key('e', block), key('m', block), key('r', block)
  local started = redis.call('HKEYS', L)
  for _, branch in ipairs(redis.call('HKEYS', E)) do started[#started + 1] = branch end
  redis.call('DEL', L, E)
  for _, mark in ipairs(redis.call('HKEYS', M)) do
    if OF_ATTEMPTS[string.match(mark, '^%a+')] then redis.call('HDEL', M, mark) end
  end
  local parked, queued, limit = 0, {}, tonumber(redis.call('HGET', B, 'limit'))
  for _, branch in ipairs(started) do
    if string.sub(branch, 1, 1) ~= '@' and not queued[branch] and redis.call('HEXISTS', R, branch) == 0 then
      queued[branch] = true
      local child = redis.call('HGET', M, 'at:' .. branch)
      local again = child and redis.call('HGET', key('b', child), 'state') ~= 'ok'
      if again and (limit == 0 or parked < limit) then
        redis.call('HSET', L, branch, PARKED)
        parked = parked + 1
        reopen(child)
      else
        redis.call('RPUSH', key('q', block) .. ':' .. (redis.call('HGET', M, 'track:' .. branch) or 0), branch)
      end
    end
  end
  redis.call('HSET', B, 'state', 'open', 'running', parked, 'done', redis.call('HLEN', R))
  redis.call('HDEL', B, 'ended', 'stopped', 'failed', 'hinted', 'ask_after')
  redis.call('SADD', K .. ':open', block)
  event('block.opened', 'block', block, 'name', redis.call('HGET', B, 'name'), 'n', redis.call('HGET', B, 'n'))
  local timeout = redis.call('HGET', B, 'timeout')
  if timeout then
    redis.call('HSET', B, 'deadline', NOW + tonumber(timeout))
    schedule('deadline', block, NOW + tonumber(timeout))
  end
  schedule('hint', block, NOW + HINT_AFTER)
  ask_lanes(block)
end
