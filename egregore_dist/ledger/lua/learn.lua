-- Keep what was learned of functions, where it follows from what is kept now. It belongs to no run.
--
-- KEYS[1]  <prefix>:profiles       hash  function -> encoded profile
-- KEYS[2]  <prefix>:profiles:used  zset  function -> when something was learned of it last, server ms
-- ARGV  functions to keep at most, then triples (function, its profile as it was read or "", its profile from now on)
-- Returns the functions of which somebody else learned meanwhile: nothing is changed of those
--
-- Keeps: what one process learned is not lost by what another did; of too many functions those that were longest not
-- learned of are forgotten.

local PROFILES, USED, most = KEYS[1], KEYS[2], tonumber(ARGV[1])
local changed = {}
for i = 2, #ARGV, 3 do
  local name, before, after = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if (redis.call('HGET', PROFILES, name) or '') == before then
    redis.call('HSET', PROFILES, name, after)
    redis.call('ZADD', USED, NOW, name)
  else
    changed[#changed + 1] = name
  end
end
local over = redis.call('ZCARD', USED) - most
if over > 0 then
  local longest = redis.call('ZPOPMIN', USED, over)
  for i = 1, #longest, 2 do redis.call('HDEL', PROFILES, longest[i]) end
end
return changed
