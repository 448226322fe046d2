-- Set a limit by hand, or forget what was set. It belongs to no run.
--
-- KEYS[1]  <prefix>:limits:set   KEYS[2]  <prefix>:agenda
-- ARGV  limit, rule or "" to forget it
-- Returns { whether there is such a limit, buckets of it that are in use }
--
-- It holds from the next lease on; what runs already is not stopped. Forgotten, what the code declares holds again, and of a
-- limit that is not in use that is forgotten too.

local name, rule = ARGV[1], ARGV[2]
local declared = limits().PREFIX .. ':limits'
local is_known = redis.call('HEXISTS', declared, name) + redis.call('HEXISTS', KEYS[1], name) > 0
local buckets = {}
for _, bucket in ipairs({ name, unpack(redis.call('ZRANGE', limits().of('k', name), 0, limits().BUCKETS_AT_MOST)) }) do
  if limits().is_live(bucket) then buckets[#buckets + 1] = bucket end
end
if rule ~= '' then
  redis.call('HSET', KEYS[1], name, rule)
else
  redis.call('HDEL', KEYS[1], name)
  if #buckets == 0 then redis.call('HDEL', declared, name) end
end
for _, bucket in ipairs(buckets) do redis.call('ZADD', limits().PREFIX .. ':limits:due', NOW, bucket) end
return { is_known and 1 or 0, buckets }
