-- Forget a run that has ended: every key of it.
--
-- Returns 1, or 0 where the run has not ended or does not exist.

local state = redis.call('HGET', K, 'state')
if not state or state == 'pending' or state == 'running' then return 0 end
every_key(function(name) redis.call('UNLINK', name) end)
redis.call('ZREM', RUNS, RUN)
return 1
