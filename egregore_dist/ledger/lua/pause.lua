-- Pause a run that has not ended: no branch of it is leased and no message of it is asked for until it is resumed. What runs
-- goes on, is committed, and may end the run. Deadlines go on too: a timeout is a promise to who waits.
--
-- ARGV  when the run was submitted that is meant, or "": one that has its id since is as if it were not there
-- Returns the state of the run after it, or "" where there is no such run.

if is_gone(ARGV[1]) then return '' end
local before = status()
if (before == 'pending' or before == 'running') and redis.call('HEXISTS', K, 'ending') == 0 then
  redis.call('HSET', K, 'paused', NOW)
  event('run.paused')
end
return status()
