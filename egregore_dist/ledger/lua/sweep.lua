-- Do what a due entry of the agenda asks for, if nobody did it before.
--
-- ARGV  "deadline" | "hint" | "tidy", block, attempts at most, packed the queues with messages waiting, then packed what the live
--       workers said: worker -> { at = server ms, dead = { pid, ... }, pids = { pid, ... } that live and lanes = { id, ... }, or nil
--       where it did not say }, and '' -> the same of all others, where they may live though they say nothing; or nil: no lane is
--       taken for gone; then packed queue -> queue, or nil: of those whose workers, which have more memory than others, have all
--       gone, the one where lanes are asked for instead
-- Returns messages to publish, flat.
--
-- tidy: go on with what a call before could not do all of; its caller has not. A retry that was given up leaves the keys as
-- they were. deadline: end the block, or the one around it whose deadline is the first of both.
-- hint: give back the leases of lanes that are gone: their worker is, or their process, or their
-- worker said, after they had begun, that it does not have it, or them (a branch that lost its last attempt fails as "lost"), and
-- ask for others in their place. Where branches wait and fewer lanes than planned serve them, ask for lanes; again after twice the time.
-- Where messages wait on the queue, theirs are most likely among them, so one lane is asked for, and another after some rounds.
-- A block that lanes work on is looked at again soon all the same. For a paused run no lane is asked for, nor while the server
-- evicts keys.
--
-- A run of which the server has lost part is ended by its caller, see forget.lua: a message "lost" asks for that.
--
-- Keeps: an entry that is not due, since another janitor has dealt with it, changes nothing; each open block has an entry.

local kind, block, attempts, backed_up = ARGV[1], ARGV[2], tonumber(ARGV[3]), {}
for _, queue in ipairs(cmsgpack.unpack(ARGV[4])) do backed_up[queue] = true end
local B, L = key('b', block), key('l', block)
local state, deadline, tracks, hinted, ask_after, limit = unpack(redis.call('HMGET', B, 'state', 'deadline', 'tracks',
  'hinted', 'ask_after', 'limit'))

-- Whether the server has lost part of the run, as in a failover or where it evicts keys, so that nobody could end it as it
-- should, or have all its keys expire.
local function has_lost_part()
  if is_gone('') then return true end
  local what = tidying()
  if redis.call('SISMEMBER', BLOCKS, ROOT) == 0 then return what ~= 'delete' or redis.call('EXISTS', BLOCKS) == 0 end
  if redis.call('HEXISTS', K, 'ended') == 1 then return false end
  if not state then return redis.call('SISMEMBER', BLOCKS, block) == 1 end
  if state ~= 'open' or ends_with_another(block) then return false end
  local n, done, input, parent = unpack(redis.call('HMGET', B, 'n', 'done', 'input', 'parent'))
  if parent and redis.call('EXISTS', key('b', parent)) == 0 then return true end
  if not has_results(block, done) or redis.call('EXISTS', key('i', input)) == 0 then return true end
  -- Each branch has ended, is held, or waits.
  local known = tonumber(done)
  for _, holder in ipairs(redis.call('HKEYS', L)) do
    if string.sub(holder, 1, 1) ~= '@' then known = known + 1 end
  end
  for track = 0, tonumber(tracks) - 1 do known = known + waiting(block, track) end
  return known ~= tonumber(n)
end

if has_lost_part() then
  local created, ended = unpack(redis.call('HMGET', K, 'created', 'ended'))
  if created and not ended then redis.call('HSET', K, 'lost', 1) end
  redis.call('ZREM', AGENDA, RUN .. ' ' .. kind .. ' ' .. block)
  schedule('hint', ROOT, NOW + HINT_AFTER)
  return { 'lost', block, '0', '', '', '', created or '0' }
end

if state ~= 'open' and kind ~= 'tidy' then
  unschedule(block)
  return publish
end

-- What an end should have closed, and did not know of.
local above = redis.call('HGET', B, 'parent')
above = above and redis.call('HGET', key('b', above), 'state')
if kind ~= 'tidy' and (redis.call('HEXISTS', K, 'ended') == 1 or (above and above ~= 'open')) and not ends_with_another(block) then
  redis.call('HSET', B, 'state', 'cancelled', 'ended', NOW)
  redis.call('SREM', K .. ':open', block)
  unschedule(block)
  return publish
end

local function is_due(of)
  local at = redis.call('ZSCORE', AGENDA, RUN .. ' ' .. kind .. ' ' .. of)
  return at and tonumber(at) <= NOW
end

if not is_due(block) then
  local around = kind == 'deadline' and redis.call('HGET', B, 'ends_with')
  if not around or around == block or not is_due(around) then return publish end
  block, deadline = around, redis.call('HGET', key('b', around), 'deadline')
end

if kind == 'tidy' or ends_with_another(block) then
  if tidying() == 'keep' then redis.call('HSET', K, 'tidy', 'expire 0') end
  go_on()
  return publish
end

if kind == 'deadline' then
  if tonumber(deadline) <= NOW then fail(block, 'timeout') end
  count_of_cluster('deadlines', 1)
  return publish
end

-- Of those in which messages wait on the queue: all but the second, in case that its own was lost.
local PATIENT_ROUNDS, NOT_SO_PATIENT = 4, 1
local workers, instead = cmsgpack.unpack(ARGV[5]), cmsgpack.unpack(ARGV[6]) or {}

local leases, serving, watched, failed, ended, replace = redis.call('HGETALL', L), {}, false, 0, {}, {}
local gone = 0
for i = 1, #leases, 2 do
  local token = string.match(leases[i], '^@(.*)')
  if token then
    local _, _, since = held_by(block, token)
    ended[token] = how_it_ended(workers, token, since)
  end
end
for i = 1, #leases, 2 do
  local branch, holder = leases[i], leases[i + 1]
  local token = string.match(branch, '^@(.*)')
  if token then
    local of_track = string.match(holder, '^%d+:%d+:(%d+)')
    if ended[token] then
      local held, width = held_by(block, token)
      hold(block, token, nil, math.min(held, width), 0, width)
      replace[of_track] = (replace[of_track] or 0) + 1
      gone = gone + 1
    else
      serving[of_track] = (serving[of_track] or 0) + 1
      watched = true
    end
  elseif holder ~= PARKED and ended[holder] then
    failed = failed + lose(block, branch, attempts, ended[holder], '')
  end
end
count_of_cluster('lanes', gone)
local has_ended = settle(block, failed)
if unsettled then limits().settle() end
if has_ended then return publish end
-- Not those that limits call.
local called = #publish

hinted, ask_after = tonumber(hinted or 0), tonumber(ask_after or 0)
local free = math.huge
if limit ~= '0' then free = tonumber(limit) - tonumber(redis.call('HGET', B, 'running')) end
local waits, asks, paused, held = false, ask_after <= NOW, is_paused(), held_until()
if held then free = 0 end
for t = 0, tonumber(tracks) - 1 do
  local lanes, queue = unpack(redis.call('HMGET', B, 'lanes:' .. t, 'queue:' .. t))
  local missing = math.min(tonumber(lanes) - (serving[tostring(t)] or 0), waiting_for_lanes(block, t), free, LANES_AT_MOST)
  waits = waits or missing > 0
  local wanted = asks and missing or 0
  if backed_up[queue] then wanted = math.min(wanted, (hinted == NOT_SO_PATIENT or hinted >= PATIENT_ROUNDS) and 1 or 0) end
  -- No message of a lane that is gone will come.
  for _ = 1, math.max(wanted, math.min(missing, replace[tostring(t)] or 0)) do ask('lane', block, t, instead[queue] or queue) end
end
if not waits or paused then
  redis.call('HDEL', B, 'hinted', 'ask_after')
  ask_after = held or NOW + HINT_AT_MOST
elseif asks then
  hinted = hinted + 1
  ask_after = NOW + math.min(HINT_AFTER * 2 ^ hinted, HINT_AT_MOST)
  redis.call('HSET', B, 'hinted', hinted, 'ask_after', ask_after)
end
schedule('hint', block, watched and NOW + HINT_AFTER or ask_after)
count_of_cluster('messages', (#publish - called) / MESSAGE_PARTS)
return publish
