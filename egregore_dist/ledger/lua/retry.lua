-- Run again what did not end well in a run that failed or was cancelled, and keep the rest.
--
-- Returns { state before, messages to publish }, the state "" where there is no such run. Unless it was "failed" or
-- "cancelled", nothing is changed.
--
-- Every block that did not end well is open again, with a new deadline, unless the one that it hangs on ended well with its
-- error. Of its branches, those with a value keep it; one that stands at a block which is open again is parked at it; the
-- others that had started are leased anew, with all their attempts, and go on after the last block that they had behind
-- them. No more are parked than the limit lets: the others wait in the queue, and serve.lua opens their blocks in turn.

local before = status()
if before ~= 'failed' and before ~= 'cancelled' then return { before, {} } end

every_key(function(name) redis.call('PERSIST', name) end)
redis.call('DEL', K .. ':end')
redis.call('HSET', K, 'state', 'running')
redis.call('HDEL', K, 'ended')
event('run.retried')

reopen(ROOT)
return { before, publish }
