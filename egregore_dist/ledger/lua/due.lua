-- Elect a janitor, and tell it what is due. It belongs to no run.
--
-- KEYS[1]  <prefix>:janitor   string  the janitor that leads, until its lease ends
-- ARGV  janitor, lease ms, entries at most
-- Returns { 1 if it leads else 0, entries of the agenda that are due, the oldest first, buckets of limits that are, see
-- _limits.lua }
--
-- One call a round, whoever leads; a follower's changes nothing. Two that both believe to lead do no harm: what they do
-- are transitions. A lease is prolonged by PEXPIRE, which a server does also while its memory is full.

local me, lease, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= me then return { 0, {}, {} } end
if leader then
  redis.call('PEXPIRE', KEYS[1], lease)
else
  redis.call('SET', KEYS[1], me, 'PX', lease)
end
return { 1, redis.call('ZRANGEBYSCORE', AGENDA, '-inf', NOW, 'LIMIT', 0, most), limits().due(most) }
