-- Run again what did not end well in a run that failed or was cancelled, and keep the rest.
--
-- Returns { state before, messages to publish }, the state "" where there is no such run. Unless it was "failed" or
-- "cancelled", nothing is changed.
--
-- Every block that did not end well is open again, with a new deadline, unless the one that it hangs on ended well with its
-- error. Of its branches, those with a value keep it; one that stands at a block which is open again is parked at it; the
-- others that had started are leased anew, with all their attempts, and go on after the last block that they had behind them.

local before = redis.call('HGET', K, 'state')
if before ~= 'failed' and before ~= 'cancelled' then return { before or '', {} } end

every_key(function(name) redis.call('PERSIST', name) end)
redis.call('DEL', K .. ':end')
redis.call('HSET', K, 'state', 'running')
redis.call('HDEL', K, 'ended')
event('run.retried')

local function reopen(block)
  local B, L, E, M, R = key('b', block), key('l', block), key('e', block), key('m', block), key('r', block)
  local started = redis.call('HKEYS', L)
  for _, branch in ipairs(redis.call('HKEYS', E)) do started[#started + 1] = branch end
  redis.call('DEL', L, E)
  for _, mark in ipairs(redis.call('HKEYS', M)) do
    if string.sub(mark, 1, 5) == 'lost:' then redis.call('HDEL', M, mark) end
  end
  local parked, queued = 0, {}
  for _, branch in ipairs(started) do
    if string.sub(branch, 1, 1) ~= '@' and not queued[branch] and redis.call('HEXISTS', R, branch) == 0 then
      queued[branch] = true
      local child = redis.call('HGET', M, 'at:' .. branch)
      if child and redis.call('HGET', key('b', child), 'state') ~= 'ok' then
        redis.call('HSET', L, branch, PARKED)
        parked = parked + 1
        reopen(child)
      else
        redis.call('RPUSH', key('q', block) .. ':' .. (redis.call('HGET', M, 'track:' .. branch) or 0), branch)
      end
    end
  end
  redis.call('HSET', B, 'state', 'open', 'running', parked, 'done', redis.call('HLEN', R))
  redis.call('HDEL', B, 'ended', 'failed', 'hinted', 'ask_after')
  redis.call('SADD', K .. ':open', block)
  event('block.opened', 'block', block, 'name', redis.call('HGET', B, 'name'), 'n', redis.call('HGET', B, 'n'))
  local timeout = redis.call('HGET', B, 'timeout')
  if timeout then
    redis.call('HSET', B, 'deadline', NOW + tonumber(timeout))
    schedule('deadline', block, NOW + tonumber(timeout))
  end
  schedule('hint', block, NOW + HINT_AFTER)
  for track = 0, tonumber(redis.call('HGET', B, 'tracks')) - 1 do
    local lanes = tonumber(redis.call('HGET', B, 'lanes:' .. track))
    for _ = 1, math.min(lanes, waiting(block, track), LANES_AT_MOST) do ask_lane(block, track) end
  end
end

reopen(ROOT)
return { before, publish }
