-- Give back what a lane of a dead process held: the process's worker has seen it end, and knows at what it was.
--
-- ARGV  block, token, branch that it executed or -1, verdict, attempts at most, how it ended, node or "", then, where it was
--       killed for want of memory: queue where the branch that it executed waits from now on, lanes that may serve such
--       branches there, and what to say where this was its last attempt; else "", 0, ""; 1 where it was killed for want of
--       memory, else 0; then for each node that was over its timeout when the process was killed: branch, node, calls of it
--       up to now, calls at most, failure
--       verdict "lost": the branch has cost a process (where none is known, each that the lane held has, but of many that
--               ran together and lacked memory none); the last of its attempts it ends as lost.  "stopped": of the others
--               nobody is to blame
--       A node that was over its timeout is called again, or, after its last call, its branch ends with the failure.
-- Returns messages to publish, flat.
--
-- Keeps: only what the token still holds is touched, so a second call changes nothing; what the lane had committed stays,
-- and what it would still commit is refused.
-- A lane holds branches of one block. But its last transition may have taken it to another one before it could say so: up
-- to the parent, whose branch the commit that completed the block leased to it, or down to the block that its one branch met.

local block, token, branch_at_work, verdict, attempts, why, node, roomy, lanes_there, about, lacked = unpack(ARGV, 1, 11)
attempts = tonumber(attempts)
local overruns = {}
for i = 12, #ARGV, 5 do
  overruns[ARGV[i]] = { node = ARGV[i + 1], calls = ARGV[i + 2], most = ARGV[i + 3], failure = ARGV[i + 4] }
end

-- Returns how many branches have ended: 0 or 1.
local function overrun(block, branch, over)
  event('branch.stopped', 'block', block, 'branch', branch, 'lane', token, 'attempt', attempt_at(block, branch),
    'node', over.node)
  if tonumber(over.calls) < tonumber(over.most) then
    redis.call('HSET', key('m', block), 'tried:' .. branch, over.calls .. ' ' .. over.node)
    redis.call('HDEL', key('m', block), 'again:' .. branch)
    give_back(block, branch)
    return 0
  end
  fail_branch(block, branch, 'timeout', over.failure)
  return 1
end

-- Have a branch wait on another queue: as one of a track that is made for such branches, unless there is one. Returns the
-- track.
local function move(block, branch)
  local B, M = key('b', block), key('m', block)
  local from = redis.call('HGET', M, 'track:' .. branch) or '0'
  local tracks, queue, named = unpack(redis.call('HMGET', B, 'tracks', 'queue:' .. from, 'limit:' .. from))
  if queue == roomy then return from end
  local to
  for t = 0, tonumber(tracks) - 1 do
    local its_queue, its_name = unpack(redis.call('HMGET', B, 'queue:' .. t, 'limit:' .. t))
    if its_queue == roomy and its_name == named then to = to or t end
  end
  if not to then
    to = tonumber(tracks)
    redis.call('HSET', B, 'tracks', to + 1, 'queue:' .. to, roomy, 'width:' .. to, 1, 'moved:' .. to, 1)
    if named then redis.call('HSET', B, 'limit:' .. to, named) end
  end
  if redis.call('HEXISTS', B, 'moved:' .. to) == 1 then
    local count = redis.call('HINCRBY', B, 'count:' .. to, 1)
    redis.call('HSET', B, 'lanes:' .. to, math.max(1, math.min(count, tonumber(lanes_there))))
  end
  redis.call('HSET', M, 'track:' .. branch, to)
  return tostring(to)
end

-- Many ran together, and lacked memory. Where it is known in whose turn that was, it may have been that one. If it comes
-- again to one of those beside it, or nobody is known, it is their number: half of them run together from now on, and where
-- no fewer did than their track has, no more of that. Returns how many may; 0: as many as before.
local function thin(block, track, together)
  local marks, again, were_fewer = {}, branch_at_work == '-1', false
  for i, branch in ipairs(together) do marks[i] = 'crowd:' .. branch end
  in_parts(marks, function(...)
    for _, mark in ipairs(redis.call('HMGET', key('m', block), ...)) do
      if mark then again, were_fewer = true, were_fewer or mark ~= '0' end
    end
  end)
  if not again then return 0 end
  local half, width = math.floor(#together / 2), 'width:' .. track
  if not were_fewer then
    redis.call('HSET', key('b', block), width, math.min(half, tonumber(redis.call('HGET', key('b', block), width))))
  end
  return half
end

local function take_back(block, verdict, overruns)
  local L = key('l', block)
  local mine = redis.call('HGET', L, '@' .. token)
  if not mine then return end
  if state_of(block) ~= 'open' then return left(block, token) end
  local held, width = held_by(block, token)
  hold(block, token, nil, math.min(held, width), 0, width)
  local leases, its, over, failed, moved, crowd = redis.call('HGETALL', L), {}, {}, 0, nil, nil
  for i = 1, #leases, 2 do
    if leases[i + 1] == token then its[#its + 1] = leases[i] end
  end
  local track, lacks = string.match(mine, '^%d+:%d+:(%d+)'), verdict == 'lost' and lacked == '1'
  if lacks and width > 1 and #its > 1 then crowd = thin(block, track, its) end
  for _, branch in ipairs(its) do
    local is_known = branch == branch_at_work or (lacks and branch_at_work == '-1' and #its == 1)
    if verdict == 'lost' and (is_known or (branch_at_work == '-1' and not crowd)) then
      if is_known or lacks then redis.call('HSET', key('m', block), 'sole:' .. branch, 1) end
      if is_known and roomy ~= '' then moved = move(block, branch) end
      failed = failed + lose(block, branch, attempts, why, node, about)
    elseif overruns[branch] then
      over[#over + 1] = branch
    else
      if next(overruns) then redis.call('HINCRBY', key('m', block), 'beside:' .. branch, 1) end
      if crowd then redis.call('HSET', key('m', block), (crowd == 1 and 'sole:' or 'crowd:') .. branch, crowd) end
      -- A lane of many has begun all that it holds.
      if width > 1 then
        event('branch.stopped', 'block', block, 'branch', branch, 'lane', token, 'attempt', attempt_at(block, branch))
      end
      give_back(block, branch)
    end
  end
  -- One after the other in the queue, so that they run among themselves.
  for _, branch in ipairs(over) do failed = failed + overrun(block, branch, overruns[branch]) end
  if settle(block, failed) then return end
  if waiting_for_lanes(block, track) > 0 then ask_lane(block, track) end
  if moved and moved ~= track and waiting_for_lanes(block, moved) > 0 then ask_lane(block, moved) end
  hint_soon(block)
end

if is_gone('') then return publish end
take_back(block, verdict, overruns)
local parent, n = unpack(redis.call('HMGET', key('b', block), 'parent', 'n'))
-- It had not begun with these.
if parent then take_back(parent, 'stopped', {}) end
local child = n == '1' and redis.call('HGET', key('m', block), 'at:0')
if child then take_back(child, 'stopped', {}) end
if unsettled then limits().settle() end
return publish
