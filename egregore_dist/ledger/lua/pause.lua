-- Pause a run that has not ended: no branch of it is leased and no message of it is asked for until it is resumed. What runs
-- goes on, is committed, and may end the run. Deadlines go on too: a timeout is a promise to who waits.
--
-- Returns the state of the run after it, or "" where there is no such run.

local before = status()
if (before == 'pending' or before == 'running') and redis.call('HEXISTS', K, 'ending') == 0 then
  redis.call('HSET', K, 'paused', NOW)
  event('run.paused')
end
return status()
