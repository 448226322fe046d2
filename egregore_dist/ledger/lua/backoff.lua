-- Note branches that wait where they are before a node of theirs is called again, so that people can see it.
--
-- ARGV  for each: block, branch, token, ms from now, the call that it waits for, calls at most, node
-- Returns how many were noted: one that its lane does not hold any more is not.
--
-- Keeps: what is over goes with the next call, so that there is never more than what waits at a time.

local WAITS, noted, blocks = K .. ':waits', 0, {}
if is_gone('') then return 0 end
redis.call('ZREMRANGEBYSCORE', WAITS, '-inf', NOW)
for i = 1, #ARGV, 7 do
  local block, branch, token, left, calls, most, node = unpack(ARGV, i, i + 6)
  if redis.call('HGET', key('l', block), branch) == token and state_of(block) == 'open' then
    -- Names of workers and of nodes may have any letters.
    local member = cmsgpack.pack({ block, branch, token, calls, most, node })
    redis.call('ZADD', WAITS, NOW + tonumber(left), member)
    blocks[block] = blocks[block] or {}
    table.insert(blocks[block], tonumber(branch))
    noted = noted + 1
  end
end
for block, branches in pairs(blocks) do event('branches.waiting', 'block', block, 'branches', cmsgpack.pack(branches)) end
return noted
