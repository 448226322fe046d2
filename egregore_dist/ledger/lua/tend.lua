-- Look after a bucket of a limit, see _limits.lua: call lanes for places that are free. It belongs to no run.
--
-- KEYS[1]  <prefix>:limits:due
-- ARGV  bucket, "alarm": the rate should have a start left; "edit": the rule was changed; or "janitor", then packed what the
--       live workers said, as in sweep.lua
-- Returns { messages to publish, alarms or {}: flat pairs (bucket, ms after which a process that is told calls this again) }
--
-- A janitor also takes back places whose lease is gone, and those of ended blocks whose lane is.

local DUE, bucket, why = KEYS[1], ARGV[1], ARGV[2]
local LOOKED_AT = 1000
local PREFIX, LOOK_AFTER, of = limits().PREFIX, limits().LOOK_AFTER, limits().of
can_arm = true

-- Whether a place is held, and then whether its block has ended.
local function is_held(member, workers)
  local run, block, branch, token = string.match(member, '^(%S+) (%S+) (%S+) (.+)$')
  local R = PREFIX .. ':{' .. run .. '}'
  if redis.call('HGET', R .. ':m:' .. block, 'place:' .. branch) ~= token .. ' ' .. bucket then return false end
  if redis.call('HGET', R .. ':b:' .. block, 'state') == 'open' then
    -- Whether its lane is alive is looked after by the block's own entry.
    return redis.call('HGET', R .. ':l:' .. block, branch) == token
  end
  local holds = redis.call('HGET', R .. ':l:' .. block, '@' .. token)
  return holds and not how_it_ended(workers, token, string.match(holds, '(%d+)$')), true
end

local stopping = false

redis.call('DEL', of('a', bucket))
if why == 'janitor' then
  local workers = cmsgpack.unpack(ARGV[3])
  for _, member in ipairs(redis.call('ZRANGE', of('h', bucket), 0, LOOKED_AT - 1)) do
    local held, has_ended = is_held(member, workers)
    if not held then redis.call('ZREM', of('h', bucket), member) end
    stopping = stopping or (held and has_ended)
  end
  redis.call('ZADD', DUE, NOW + LOOK_AFTER, bucket)
end
limits().tend(bucket)
if redis.call('EXISTS', of('w', bucket)) == 0 and not stopping then redis.call('ZREM', DUE, bucket) end
return { publish, alarms or {} }
