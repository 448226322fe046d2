-- Limits by name, held over all runs and workers. Prepended to each script, after what all of them share.
-- All of it is in one function, which runs when a transition first needs it.
--
-- A limit's places are in buckets: one named like the limit, or, where it has a key, one a value, "<limit>/<value>".
--
--   <prefix>:limits          hash    limit -> rule, as the block that was opened last declares it
--   <prefix>:limits:set      hash    limit -> rule that was set by hand: it goes before
--   <prefix>:limits:due      zset    bucket -> server ms: when a janitor looks after it, see tend.lua
--   <prefix>:limit:k:<limit>   zset    buckets of its values -> when they were used last, server ms
--   <prefix>:limit:h:<bucket>  zset    holders, "<run> <block> <branch> <token>" -> since when, server ms
--   <prefix>:limit:w:<bucket>  zset    tracks that wait, "<run> <block> <track>" -> server us: the first one is next
--   <prefix>:limit:c:<bucket>  hash    those of them that were called -> "<when, server ms> <lanes that have not come yet>"
--   <prefix>:limit:r:<bucket>  string  "<when its rate has nothing more to make up for, server us> <us between two starts>";
--                                      it expires then
--   <prefix>:limit:a:<bucket>  string  a process has an alarm set for it; it expires
-- A rule is "<concurrent> <starts> <in us> <burst> <key>", 0 where there is none.
--
-- A place belongs to a lease, and the mark place:<branch> ("<token> <bucket>") says so: what ends the lease gives it back.
-- Of a block that has ended it is given back when its lane has left: until then the node may run. What a janitor finds
-- without its lease is taken back.
-- A track that finds no place waits in turn, and its lane leaves. Whoever gives one back calls a lane for the first that
-- waits. One that was called and does not come waits no more: its block's entry in the agenda has a lane asked for. So a
-- place is never kept for a lane that is not there, and no branch is forgotten.
-- These keys are in no run's hash slot, like the agenda's.
--
-- Keeps: never more holders in a bucket than its rule lets start; in any time t no more than burst + t * rate starts.

local made

-- Not indented: it is all that follows.
limits = function()
if made then return made end
made = {}
local touched = {}

local PREFIX = string.sub(AGENDA, 1, -8)
local NOW_US = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
-- Milliseconds: how long a track that was called may take to come, until a janitor looks, and when values are forgotten.
local CALLED_FOR, LOOK_AFTER, IDLE = 5000, 2000, 600000
local BUCKETS_AT_MOST, CALLED_AT_MOST = 1000, 100
made.PREFIX, made.LOOK_AFTER, made.BUCKETS_AT_MOST = PREFIX, LOOK_AFTER, BUCKETS_AT_MOST
-- Alarms are for a moment: a janitor is there for what is later. A lane of many that waits asks itself, by then.
local ALARM_AT_MOST, ASK_AFTER = 10000, 100

function made.of(kind, bucket) return PREFIX .. ':limit:' .. kind .. ':' .. bucket end

local of = made.of

function made.bucket_of(named) return string.match(named, '^%S+') end

local function waiter(block, track) return RUN .. ' ' .. block .. ' ' .. track end

function made.is_live(bucket) return redis.call('EXISTS', of('h', bucket), of('w', bucket)) > 0 end

-- The bucket of a value that comes: its own, or, while there are too many, one for all of these.
local function bucket_for(bucket, name)
  local known = of('k', name)
  local others = name .. '/*'
  if not redis.call('ZSCORE', known, bucket) then
    if redis.call('ZCARD', known) >= BUCKETS_AT_MOST or redis.call('ZSCORE', known, others) then
      for _, idle in ipairs(redis.call('ZRANGEBYSCORE', known, '-inf', NOW - IDLE, 'LIMIT', 0, CALLED_AT_MOST)) do
        if made.is_live(idle) then redis.call('ZADD', known, NOW, idle) else redis.call('ZREM', known, idle) end
      end
    end
    -- A value never has two: while the others' is in use, one that comes goes there.
    if redis.call('ZCARD', known) >= BUCKETS_AT_MOST or redis.call('ZSCORE', known, others) then bucket = others end
  end
  redis.call('ZADD', known, NOW, bucket)
  redis.call('PEXPIRE', known, 144 * IDLE)
  return bucket
end

-- Note a limit as a block that is opened declares it: "<bucket> <rule>". Returns it with the bucket that it is given.
function made.declare(named)
  local bucket, rule = string.match(named, '^(%S+) (.*)$')
  local name = string.match(bucket, '^[^/]*')
  redis.call('HSET', PREFIX .. ':limits', name, rule)
  if name == bucket then return named end
  return bucket_for(bucket, name) .. ' ' .. rule
end

-- How many branches may run at a time, us between two starts, and how many may start at once; 0 for no such limit.
local function rule_of(bucket)
  local name = string.match(bucket, '^[^/]*')
  local rule = redis.call('HGET', PREFIX .. ':limits:set', name) or redis.call('HGET', PREFIX .. ':limits', name)
  local concurrent, starts, period, burst = string.match(rule or '0 0 0 0', '^(%d+) (%d+) (%d+) (%d+)')
  starts = tonumber(starts)
  return tonumber(concurrent), starts > 0 and tonumber(period) / starts or 0, tonumber(burst)
end

-- Note what a rate has to make up for, in us from now on.
local function make_up(bucket, left, interval)
  redis.call('SET', of('r', bucket), string.format('%.0f %.6f', math.ceil(NOW_US + left), interval), 'PX',
    math.ceil(left / 1000) + 1)
end

-- Places that are free, starts that the rate has left, us until it has one where it has none; then what `take` needs.
local function room_in(bucket)
  local concurrent, interval, burst = rule_of(bucket)
  local places, starts, wait, left = math.huge, math.huge, 0, 0
  if concurrent > 0 then places = math.max(0, concurrent - redis.call('ZCARD', of('h', bucket))) end
  if interval > 0 then
    local until_us, of_interval = string.match(redis.call('GET', of('r', bucket)) or '', '^(%d+) (%S+)$')
    -- Differences first: a double has no room for a part of a us beside the time.
    left = math.max(0, tonumber(until_us or 0) - NOW_US)
    if left > burst * interval and of_interval ~= string.format('%.6f', interval) then
      -- What another rate had left to make up for binds this one no more than its own.
      left = burst * interval
      make_up(bucket, left, interval)
    end
    starts = math.max(0, math.floor(burst - left / interval + 1e-9))
    if starts < 1 then wait = math.max(1, left - (burst - 1) * interval) end
  end
  return places, starts, wait, left, interval
end

local function leave_queue(bucket, member)
  redis.call('ZREM', of('w', bucket), member)
  redis.call('HDEL', of('c', bucket), member)
end

local function may_be_leased(run, block)
  local R = PREFIX .. ':{' .. run .. '}'
  return redis.call('HGET', R .. ':b:' .. block, 'state') == 'open' and redis.call('HEXISTS', R, 'paused') == 0
    and not ends_with_another(block, R .. ':closing')
end

-- Lanes that were called and have not come yet. A track whose lane takes too long waits no more.
local function coming(bucket)
  local called, lanes = redis.call('HGETALL', of('c', bucket)), 0
  for i = 1, #called, 2 do
    local at, left = string.match(called[i + 1], '^(%d+) (%d+)$')
    local run, block = string.match(called[i], '^(%S+) (%S+)')
    if not may_be_leased(run, block) then
      leave_queue(bucket, called[i])
    elseif NOW - tonumber(at) > CALLED_FOR then
      leave_queue(bucket, called[i])
      redis.call('ZADD', AGENDA, 'LT', NOW, run .. ' hint ' .. block)
      redis.call('HDEL', PREFIX .. ':{' .. run .. '}:b:' .. block, 'hinted', 'ask_after')
    else
      lanes = lanes + tonumber(left)
    end
  end
  return lanes
end

-- Places that a lane may take for branches of a track: those that are not for tracks that wait before it.
function made.room_for(named, block, track, has_come)
  local bucket, rule = string.match(named, '^(%S+) (.*)$')
  redis.call('HSETNX', PREFIX .. ':limits', string.match(bucket, '^[^/]*'), rule)
  local member, queue, called = waiter(block, track), of('w', bucket), of('c', bucket)
  coming(bucket)
  local was = has_come and redis.call('HGET', called, member)
  if was then
    local at, lanes = string.match(was, '^(%d+) (%d+)$')
    if lanes == '1' then
      redis.call('HDEL', called, member)
    else
      redis.call('HSET', called, member, at .. ' ' .. (tonumber(lanes) - 1))
    end
  end
  local places, starts = room_in(bucket)
  local before = redis.call('ZRANK', queue, member) or redis.call('ZCARD', queue)
  return math.max(0, math.min(places, starts) - before)
end

-- Branches that are leased take a place each.
function made.take(bucket, block, token, branches)
  if #branches == 0 then return end
  local holders, M = of('h', bucket), key('m', block)
  for _, branch in ipairs(branches) do
    redis.call('ZADD', holders, NOW, RUN .. ' ' .. block .. ' ' .. branch .. ' ' .. token)
    redis.call('HSET', M, 'place:' .. branch, token .. ' ' .. bucket)
  end
  local _, _, _, left, interval = room_in(bucket)
  if interval > 0 then make_up(bucket, left + #branches * interval, interval) end
end

-- A track waits for places from now on, or does not. What has taken some is behind the others then. Returns ms after which a
-- lane of it that runs others asks again, or 0.
function made.queue(bucket, block, track, waits, has_taken)
  local member, queue = waiter(block, track), of('w', bucket)
  touched[bucket], unsettled = true, true
  if not waits then
    leave_queue(bucket, member)
    return 0
  end
  if has_taken then
    redis.call('ZADD', queue, NOW_US, member)
  else
    redis.call('ZADD', queue, 'NX', NOW_US, member)
  end
  redis.call('ZADD', PREFIX .. ':limits:due', 'NX', NOW + LOOK_AFTER, bucket)
  local _, _, wait = room_in(bucket)
  return wait > 0 and math.min(ASK_AFTER, math.ceil(wait / 1000)) or ASK_AFTER
end

-- Whether the branches of a track wait for places: then lanes are called for it.
function made.awaits(named, block, track)
  return redis.call('ZSCORE', of('w', made.bucket_of(named)), waiter(block, track))
end

-- Give back the place of a branch, if it has one.
function made.release(block, branch)
  local M = key('m', block)
  local held = redis.call('HGET', M, 'place:' .. branch)
  if not held then return end
  local token, bucket = string.match(held, '^(.+) (%S+)$')
  redis.call('HDEL', M, 'place:' .. branch)
  redis.call('ZREM', of('h', bucket), RUN .. ' ' .. block .. ' ' .. branch .. ' ' .. token)
  touched[bucket], unsettled = true, true
end

-- Give back what a lane has of a block that has ended.
function made.release_all(block, token)
  local leases = redis.call('HGETALL', key('l', block))
  for i = 1, #leases, 2 do
    if leases[i + 1] == token then made.release(block, leases[i]) end
  end
end

-- A block has ended badly: its lanes give back their places as they leave, and a janitor those of the ones that do not.
function made.watch(block)
  for track = 0, tonumber(redis.call('HGET', key('b', block), 'tracks')) - 1 do
    local named = redis.call('HGET', key('b', block), 'limit:' .. track)
    if named then redis.call('ZADD', PREFIX .. ':limits:due', 'NX', NOW + LOOK_AFTER, made.bucket_of(named)) end
  end
end

-- Lanes that a track which waits may have more of, and the message that asks for one. What was deleted while it waited leaves
-- its place to a run that has its id since, which may have other tracks there.
local function may_call(bucket, member)
  local run, block, track = string.match(member, '^(%S+) (%S+) (%d+)$')
  local R = PREFIX .. ':{' .. run .. '}'
  if not may_be_leased(run, block) then return 0 end
  local planned, fresh, stop, queue, name, named = unpack(redis.call('HMGET', R .. ':b:' .. block, 'lanes:' .. track,
    'next:' .. track, 'stop:' .. track, 'queue:' .. track, 'name', 'limit:' .. track))
  if not named or made.bucket_of(named) ~= bucket then return 0 end
  local waits = tonumber(stop or 0) - tonumber(fresh or 0) + redis.call('LLEN', R .. ':q:' .. block .. ':' .. track)
  local leases, serving = redis.call('HGETALL', R .. ':l:' .. block), 0
  for i = 1, #leases, 2 do
    if string.sub(leases[i], 1, 1) == '@' and string.match(leases[i + 1], '^%d+:%d+:(%d+)') == track then
      serving = serving + 1
    end
  end
  local created = redis.call('HGET', R, 'created') or '0'
  return math.min(waits, tonumber(planned) - serving),
    { 'lane', block, track, queue, name, run == RUN and '' or run, created }
end

local function call(bucket, member, lanes, message)
  local before = redis.call('HGET', of('c', bucket), member)
  local left = before and tonumber(string.match(before, ' (%d+)$')) or 0
  redis.call('HSET', of('c', bucket), member, NOW .. ' ' .. (left + lanes))
  will_use(message[4])
  for _ = 1, lanes do
    for _, part in ipairs(message) do publish[#publish + 1] = part end
  end
end

-- Call lanes for places that are free, so many of a track that each that waits has one before any has two. What needs none
-- (its block has ended, its lanes ask by themselves) waits no more.
local function call_for(bucket, room)
  local queue = of('w', bucket)
  local wanted, found = math.min(room, CALLED_AT_MOST), {}
  local at = 0
  for _ = 1, 2 * CALLED_AT_MOST do
    if #found >= wanted then break end
    local member = redis.call('ZRANGE', queue, at, at)[1]
    if not member then break end
    local lanes, message = may_call(bucket, member)
    local before = redis.call('HGET', of('c', bucket), member)
    if before then
      -- It may have as many more as its lanes that are on their way leave.
      lanes = lanes - tonumber(string.match(before, ' (%d+)$'))
      at = at + 1
      if lanes > 0 then found[#found + 1] = { member, lanes, message } end
    elseif lanes > 0 then
      at = at + 1
      found[#found + 1] = { member, lanes, message }
    else
      leave_queue(bucket, member)
    end
  end
  for i, one in ipairs(found) do
    local share = math.min(one[2], math.floor(wanted / #found) + (i <= wanted % #found and 1 or 0))
    if share > 0 then call(bucket, one[1], share, one[3]) end
  end
  return #found
end

-- Look after a bucket: call lanes, or see to it that somebody does once the rate has a start left.
function made.tend(bucket)
  if redis.call('EXISTS', of('w', bucket)) == 0 then return end
  local places, starts, wait = room_in(bucket)
  local room = math.min(places, starts) - coming(bucket)
  if room > 0 then
    call_for(bucket, room)
  elseif places > 0 and wait > 0 then
    local ms = math.ceil(wait / 1000)
    redis.call('ZADD', PREFIX .. ':limits:due', 'LT', NOW + ms + LOOK_AFTER / 4, bucket)
    if can_arm and ms <= ALARM_AT_MOST
      and redis.call('SET', of('a', bucket), 1, 'NX', 'PX', ms + LOOK_AFTER / 4) then
      alarms = alarms or {}
      alarms[#alarms + 1] = bucket
      alarms[#alarms + 1] = ms
    end
  end
end

-- Look after what the transition has touched.
function made.settle()
  for bucket in pairs(touched) do made.tend(bucket) end
end

-- The same, where the script's caller publishes nothing: a janitor does it.
function made.settle_soon()
  for bucket in pairs(touched) do redis.call('ZADD', PREFIX .. ':limits:due', NOW, bucket) end
end

function made.due(most)
  return redis.call('ZRANGEBYSCORE', PREFIX .. ':limits:due', '-inf', NOW, 'LIMIT', 0, most)
end

return made
end
