-- Give back the place of a branch that goes on without it: the node that has the limit has ended, or waits to be tried again.
--
-- ARGV  block, branch, token
-- Returns { messages to publish, alarms or {} }; a lane that does not hold the branch any more changes nothing.

local block, branch, token = unpack(ARGV)
can_arm = true
if redis.call('HGET', key('l', block), branch) == token then
  limits().release(block, branch)
  if unsettled then limits().settle() end
end
return { publish, alarms or {} }
