-- Give back what a lane of a dead process held: the process's worker has seen it end, and knows at what it was.
--
-- ARGV  block, token, branch that it executed or -1, verdict, attempts at most, how it ended, node or "", calls of the node
--       up to now, calls at most, failure
--       verdict "lost": the branch has cost a process (where none is known, each that the lane held has); the last of its
--               attempts it ends as lost.  "timeout": the process was killed since the branch's node was over its timeout;
--               it is called again, or, after its last call, the branch ends with the failure.  "stopped": nobody is to blame
-- Returns messages to publish, flat.
--
-- Keeps: only what the token still holds is touched, so a second call changes nothing; what the lane had committed stays,
-- and what it would still commit is refused.
-- A lane holds branches of one block. But its last transition may have taken it to another one before it could say so: up
-- to the parent, whose branch the commit that completed the block leased to it, or down to the block that its one branch met.

local block, token, branch_at_work, verdict, attempts, why, node, calls, most, failure = unpack(ARGV)
attempts, calls, most = tonumber(attempts), tonumber(calls), tonumber(most)

local function take_back(block, verdict)
  local L, M = key('l', block), key('m', block)
  local mine = redis.call('HGET', L, '@' .. token)
  if not mine then return end
  if state_of(block) ~= 'open' then return left(block, token) end
  local held, width = held_by(block, token)
  hold(block, token, nil, math.min(held, width), 0, width)
  local leases, failed = redis.call('HGETALL', L), 0
  for i = 1, #leases, 2 do
    local branch = leases[i]
    if leases[i + 1] == token then
      if verdict == 'lost' and (branch_at_work == '-1' or branch == branch_at_work) then
        failed = failed + lose(block, branch, attempts, why, node)
      elseif verdict == 'timeout' and branch == branch_at_work then
        event('branch.stopped', 'block', block, 'branch', branch, 'lane', token)
        if calls < most then
          redis.call('HSET', M, 'tried:' .. branch, calls .. ' ' .. node)
          give_back(block, branch)
        else
          fail_branch(block, branch, failure)
          failed = failed + 1
        end
      else
        give_back(block, branch)
      end
    end
  end
  if settle(block, failed) then return end
  local track = string.match(mine, '^%d+:%d+:(%d+)')
  if waiting(block, track) > 0 then ask_lane(block, track) end
  hint_soon(block)
end

take_back(block, verdict)
local parent, n = unpack(redis.call('HMGET', key('b', block), 'parent', 'n'))
-- It had not begun with these.
if parent then take_back(parent, 'stopped') end
local child = n == '1' and redis.call('HGET', key('m', block), 'at:0')
if child then take_back(child, 'stopped') end
return publish
