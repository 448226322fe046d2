-- Forget a run that has ended: every key of it.
--
-- ARGV  when the run was submitted that is meant, or "": one that has its id since is as if it were not there
-- Returns 1 once nothing is left, 2 where there is more to do than one call may, or 0 where the run has not ended or does not
-- exist. Once it has begun nothing of the run is opened again, and a janitor goes on where the caller does not.

if is_gone(ARGV[1]) then return 0 end
local state = redis.call('HGET', K, 'state')
if not state or state == 'pending' or state == 'running' then return 0 end
if not delete_some() then
  schedule('tidy', ROOT, NOW + HINT_AFTER)
  return 2
end
redis.call('ZREM', AGENDA, RUN .. ' tidy ' .. ROOT)
return 1
