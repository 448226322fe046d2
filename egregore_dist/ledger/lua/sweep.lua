-- Do what a due entry of the agenda asks for, if nobody did it before.
--
-- ARGV  "deadline" | "hint", block, attempts at most, queue with messages waiting or "", workers alive w, their names, then lanes' processes that are dead, as
--       "<worker>/<pid>"
-- Returns messages to publish, as flat quadruples.
--
-- deadline: end the block. hint: give back the leases of processes that are gone (a branch that lost its last attempt fails
-- as "lost"), and, where branches wait and fewer lanes than planned serve them, ask for lanes; again after twice the time.
-- Where messages wait on the queue, theirs are most likely among them, so it is only asked for after some rounds.

local kind, block, attempts, backed_up, workers = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local B, L, E = key('b', block), key('l', block), key('e', block)
local state, deadline, tracks, hinted, limit, on_error, n = unpack(redis.call('HMGET', B, 'state', 'deadline', 'tracks',
  'hinted', 'limit', 'on_error', 'n'))

if state ~= 'open' then
  unschedule(block)
  return publish
end

if kind == 'deadline' then
  if tonumber(deadline) <= NOW then fail(block, 'timeout') end
  return publish
end

local PATIENT_ROUNDS = 4
local alive, dead = {}, {}
for i = 6, 5 + workers do alive[ARGV[i]] = true end
for i = 6 + workers, #ARGV do dead[ARGV[i]] = true end

local function gone(token)
  local process, worker = string.match(token, '^((.*)/%d+)/')
  return dead[process] or not alive[worker]
end

local leases, busy, lost, done = redis.call('HGETALL', L), 0, false, 0
for i = 1, #leases, 2 do
  local branch, holder = leases[i], leases[i + 1]
  local token = string.match(branch, '^@(.*)')
  if token then
    if gone(token) then
      local held, width = held_by(block, token)
      hold(block, token, math.min(held, width), 0, width)
    else
      busy = busy + 1
    end
  elseif holder ~= PARKED and gone(holder) then
    redis.call('HDEL', L, branch)
    event('branch.lost', 'block', block, 'branch', branch, 'lane', holder)
    if redis.call('HINCRBY', B, 'lost:' .. branch, 1) < attempts then
      redis.call('LPUSH', key('q', block) .. ':' .. (redis.call('HGET', B, 'track:' .. branch) or 0), branch)
    else
      redis.call('HSET', E, branch, cmsgpack.pack({ kind = 'lost', type = 'WorkerLost', attempt = attempts,
        message = 'its process died ' .. attempts .. ' times while it ran' }))
      redis.call('HSETNX', B, 'failed', branch)
      lost, done = true, done + 1
    end
  end
end
if lost and on_error ~= 'collect' then
  fail(block, 'error')
  return publish
end
if done > 0 and redis.call('HINCRBY', B, 'done', done) == tonumber(n) then
  if complete(block) then ask_collect(block) end
  return publish
end

local waits = false
hinted = tonumber(hinted or 0)
if limit == '0' or tonumber(redis.call('HGET', B, 'running')) < tonumber(limit) then
  for t = 0, tonumber(tracks) - 1 do
    local fresh, stop, lanes, queue = unpack(redis.call('HMGET', B, 'next:' .. t, 'stop:' .. t, 'lanes:' .. t, 'queue:' .. t))
    local todo = tonumber(stop or 0) - tonumber(fresh or 0) + redis.call('LLEN', key('q', block) .. ':' .. t)
    for _ = 1, math.min(tonumber(lanes) - busy, todo) do
      waits = true
      if queue ~= backed_up or hinted >= PATIENT_ROUNDS then ask_lane(block, t) end
    end
  end
end
hinted = waits and hinted + 1 or 0
redis.call('HSET', B, 'hinted', hinted)
schedule('hint', block, NOW + math.min(HINT_AFTER * 2 ^ hinted, HINT_AT_MOST))
return publish
