-- Run again what did not end well in a run that failed or was cancelled, and keep the rest.
--
-- ARGV  when the run was submitted that is meant, or "": one that has its id since is as if it were not there
-- Returns { state before, 1 where there is more to do than one call may else 0, messages to publish }, the state "" where there
-- is no such run. Unless it was "failed" or "cancelled", nothing is changed.
--
-- Every block that did not end well is open again, with a new deadline, unless the one that it hangs on ended well with its
-- error. Of its branches, those with a value keep it; one that stands at a block which is open again is parked at it; the
-- others that had started are leased anew, with all their attempts, and go on after the last block that they had behind
-- them. No more are parked than the limit lets, or than one call may open blocks again: the others wait in the queue, and
-- serve.lua opens their blocks in turn.
--
-- Keeps: before anything runs again, no key of the run expires; until then it has ended as before, and where nobody goes on
-- with the retry, its keys expire as before.

local GIVEN_UP_AFTER = 60000

if is_gone(ARGV[1]) then return { '', 0, {} } end
local before, what, cursor = status(), tidying()
if what == 'delete' then return { '', 0, {} } end
if before ~= 'failed' and before ~= 'cancelled' then return { before, 0, {} } end

if not tidy_some('keep', what == 'keep' and cursor or '0') then
  schedule('tidy', ROOT, NOW + GIVEN_UP_AFTER)
  return { before, 1, {} }
end
redis.call('ZREM', AGENDA, RUN .. ' tidy ' .. ROOT)
redis.call('DEL', K .. ':end')
local started, ended = unpack(redis.call('HMGET', K, 'started', 'ended'))
if started and ended then redis.call('HINCRBY', K, 'rested', NOW - tonumber(ended)) end
redis.call('HSET', K, 'state', 'running', 'retried', NOW)
count('retried', 1)
redis.call('HDEL', K, 'ended')
event('run.retried')

reopen(ROOT)
return { before, 0, publish }
