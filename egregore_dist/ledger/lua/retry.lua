-- Run again what did not end well in a run that failed or was cancelled, and keep the rest.
--
-- Returns { state before, messages to publish }, the state "" where there is no such run. Unless it was "failed" or
-- "cancelled", nothing is changed.
--
-- Every block that did not end well is open again, with a new deadline. Of its branches, those with a value keep it; one that
-- stands at a block which is open again is parked at it; the others that had started are leased anew, and go on after the
-- last block that they had behind them.

local before = redis.call('HGET', K, 'state')
if before ~= 'failed' and before ~= 'cancelled' then return { before or '', {} } end

every_key(function(name) redis.call('PERSIST', name) end)
redis.call('DEL', K .. ':end')
redis.call('HSET', K, 'state', 'running')
redis.call('HDEL', K, 'ended')
event('run.retried')

local again = {}
for _, block in ipairs(redis.call('SMEMBERS', K .. ':blocks')) do
  if redis.call('HGET', key('b', block), 'state') ~= 'ok' then again[block] = true end
end

for block in pairs(again) do
  local B, L, E, R = key('b', block), key('l', block), key('e', block), key('r', block)
  local started = redis.call('HKEYS', L)
  for _, branch in ipairs(redis.call('HKEYS', E)) do started[#started + 1] = branch end
  redis.call('DEL', L, E)
  local parked, queued = 0, {}
  for _, branch in ipairs(started) do
    if string.sub(branch, 1, 1) ~= '@' and not queued[branch] and redis.call('HEXISTS', R, branch) == 0 then
      queued[branch] = true
      redis.call('HDEL', B, 'lost:' .. branch)
      local child = redis.call('HGET', B, 'at:' .. branch)
      if child and again[child] then
        redis.call('HSET', L, branch, PARKED)
        parked = parked + 1
      else
        redis.call('RPUSH', key('q', block) .. ':' .. (redis.call('HGET', B, 'track:' .. branch) or 0), branch)
      end
    end
  end
  redis.call('HSET', B, 'state', 'open', 'running', parked, 'done', redis.call('HLEN', R))
  redis.call('HDEL', B, 'ended', 'failed', 'hinted')
  redis.call('SADD', K .. ':open', block)
  event('block.opened', 'block', block, 'name', redis.call('HGET', B, 'name'), 'n', redis.call('HGET', B, 'n'))
  local timeout = redis.call('HGET', B, 'timeout')
  if timeout then
    redis.call('HSET', B, 'deadline', NOW + tonumber(timeout))
    schedule('deadline', block, NOW + tonumber(timeout))
  end
  schedule('hint', block, NOW + HINT_AFTER)
  for track = 0, tonumber(redis.call('HGET', B, 'tracks')) - 1 do
    local fresh, stop, lanes = unpack(redis.call('HMGET', B, 'next:' .. track, 'stop:' .. track, 'lanes:' .. track))
    local todo = tonumber(stop or 0) - tonumber(fresh or 0) + redis.call('LLEN', key('q', block) .. ':' .. track)
    for _ = 1, math.min(tonumber(lanes), todo) do ask_lane(block, track) end
  end
end
return { before, publish }
