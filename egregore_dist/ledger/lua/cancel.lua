-- Cancel a run: every open block ends, nothing new starts, what still runs is refused when it commits.
--
-- ARGV  when the run was submitted that is meant, or "": one that has its id since is as if it were not there
-- Returns { state of the run after it, messages to publish }, the state "" where there is no such run. With a message
-- "tidy" the run may not have ended yet: what was decided, to be called off or before to end otherwise, takes more calls.

if is_gone(ARGV[1]) then return { '', publish } end
local state = redis.call('HGET', K, 'state')
if state == 'pending' or state == 'running' then
  if redis.call('HEXISTS', K, 'ending') == 1 then
    go_on()
  else
    close(ROOT, 'cancelled')
    end_run('cancelled')
  end
end
return { status(), publish }
