-- Cancel a run: every open block ends, nothing new starts, what still runs is refused when it commits.
--
-- Returns the state of the run after it, or "" where there is no such run.

local state = redis.call('HGET', K, 'state')
if state ~= 'pending' and state ~= 'running' then return state or '' end
for _, block in ipairs(redis.call('SMEMBERS', K .. ':open')) do close(block, 'cancelled') end
end_run('cancelled')
return 'cancelled'
