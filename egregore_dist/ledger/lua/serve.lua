-- Serve a block: take what a lane has finished, and lease it what comes next.
--
-- ARGV  block, track, token, when the lane's run was submitted or "" (another run of this id is none of the lane's), branches to
--       hold at most after this (0: one, or the track's width; -1: no more, the lane leaves, and where it leaves branches waiting
--       another is asked for), branches that the lane believes it holds after these commits, commits c, releases r, packed two
--       numbers a commit (microseconds that it was executed and that it had waited before, -1 where it went on after a block, -2
--       where that is not known; and after these six more for each that there is more to tell of: the commit's number from 1,
--       attempt, microseconds of CPU time or -1, bytes that its process grew by at most or -1, the node that it failed at or "",
--       its calls in vain, four values each), then c triples (branch, "ok"|"error"|"again", payload), then r branches given back
--       unstarted. "again": the node with a limit that it begins with is to be tried again; payload "<calls> <node>"
-- Returns { state of the block, first, count, held again, resumed, late, messages to publish, alarms or {}, ms to ask again after }
--   first, count   a range of untouched branches, leased
--   held again     flat fours (branch, attempt, block to go on after or "", mark `tried` or ""): branches leased from the
--                  queue; with count -1 all that the token holds, since that is not what the lane believes (its last reply was lost)
--   resumed        { parent, track, branch, attempt, block, tried }: the parent's branch, leased to this lane to go on after this block
--   late           commits refused: the lane did not hold the branch any more
--   alarms         flat pairs (bucket of a limit, ms): see tend.lua
--   ms             of a track with a limit whose branches wait for it, or 0
--
-- A paused run, or a server that evicts keys: what was finished is taken, and nothing is leased.
--
-- Keeps: running slots never above the limit; a branch is leased by one lane at a time; only its holder commits it;
-- the commit that makes the block complete is the only one that resumes its parent; a branch that begins with a node that
-- has a limit is leased with a place of it, see _limits.lua.

local block, track, token, created = unpack(ARGV, 1, 4)
local want, believed, commits, releases = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local FIRST_COMMIT = 10
local B, L, R, E = key('b', block), key('l', block), key('r', block), key('e', block)
local Q = key('q', block) .. ':' .. track

-- A branch that was given back so often since others beside it were over their timeouts is not beside others any more.
local BESIDE_AT_MOST = 2
-- Nor is one that was lost so often with all that its lane held.
local LOST_BESIDE_AT_MOST = 2

-- Its attempt, the block that it goes on after, its mark `again` or `tried`, and beside whom it runs: "alone" where it has cost
-- a process, or was lost twice beside others, who may be to blame; "again" where it was over a timeout: with others of those,
-- in a lane of many; "any" else. Where no more than so many may run together, that follows: "any 8".
local function attempt_of(of, branch, width)
  local lost, after, tried, beside, again, sole, crowd = unpack(redis.call('HMGET', key('m', of), 'lost:' .. branch,
    'at:' .. branch, 'tried:' .. branch, 'beside:' .. branch, 'again:' .. branch, 'sole:' .. branch, 'crowd:' .. branch))
  local company, is_sole = tried and 'again' or 'any', sole or tonumber(lost or 0) >= LOST_BESIDE_AT_MOST
  if is_sole or tonumber(beside or 0) >= BESIDE_AT_MOST or (tried and width == 1) then
    company = 'alone'
  elseif crowd and crowd ~= '0' and width > 1 then
    company = company .. ' ' .. crowd
  end
  local calls = again or tried or ''
  return attempt_from(lost, calls), after or '', calls, company
end

local state, n, limit, on_error, parent, its_branch, its_track, ends_by, ends_with, opener = unpack(redis.call('HMGET', B,
  'state', 'n', 'limit', 'on_error', 'parent', 'branch', 'track', 'ends_by', 'ends_with', 'opener'))
local queue, width, lanes, of_track, fresh, stop, named = unpack(redis.call('HMGET', B, 'queue:' .. track,
  'width:' .. track, 'lanes:' .. track, 'count:' .. track, 'next:' .. track, 'stop:' .. track, 'limit:' .. track))
width = tonumber(width)
local gone, ended, paused = is_gone(created)
if state == 'open' and (ended or ends_with_another(block)) then state = 'cancelled' end
local bucket, ask_after = named and string.match(named, '^%S+'), 0
can_arm = true

-- A list, as fields of an event, if there is anything in it.
local function add_packed(fields, name, list)
  if #list > 0 then fields[#fields + 1], fields[#fields + 2] = name, cmsgpack.pack(list) end
end

local function answer(state, first, count, again, resumed, late)
  if unsettled then limits().settle() end
  return { state, first, count, again, resumed, late, publish, alarms or {}, ask_after }
end

-- A lane of a run that was deleted since would execute what that run was, for the one that has its id now.
if gone then return answer('gone', 0, 0, {}, {}, commits) end

-- Lease the branch that a complete block hangs on to this lane, where it may run here; else ask for a collect.
local function carry_on(complete_block)
  if not complete_block or is_paused() then return {} end
  local parent, branch, parent_track = unpack(redis.call('HMGET', key('b', complete_block), 'parent', 'branch', 'track'))
  if redis.call('HGET', key('b', parent), 'queue:' .. parent_track) ~= queue then
    ask_collect(complete_block)
    return {}
  end
  redis.call('LREM', key('q', parent) .. ':' .. parent_track, 1, branch)
  redis.call('HSET', key('l', parent), branch, token)
  local held, its_width = held_by(parent, token)
  hold(parent, token, parent_track, math.min(held, its_width), held + 1, its_width)
  local attempt, after, tried = attempt_of(parent, branch, 1)
  return { parent, parent_track, branch, attempt, after, tried }
end

if state ~= 'open' then
  local resumed = {}
  -- The reply that told this lane to go on in the parent may have been lost: tell it again.
  if state == 'ok' and parent and redis.call('HGET', key('l', parent), its_branch) == token then
    local attempt, after, tried = attempt_of(parent, its_branch, 1)
    if after == block then resumed = { parent, its_track, its_branch, attempt, after, tried } end
  end
  if believed == 0 then left(block, token) end
  return answer(state or 'gone', 0, 0, {}, resumed, commits)
end

-- Only a message that was tampered with names a track that the block does not have.
if not width then return answer('gone', 0, 0, {}, {}, commits) end

if ends_by and tonumber(ends_by) <= NOW then
  fail(ends_with, 'timeout')
  if believed == 0 then left(block, token) end
  return answer(ends_with == block and 'timeout' or 'cancelled', 0, 0, {}, {}, commits)
end

if block == ROOT and status() == 'pending' then
  redis.call('HSET', K, 'state', 'running', 'started', NOW)
  observe('wait', NOW - tonumber(redis.call('HGET', K, 'created')))
  event('run.started')
end

local held, held_width = held_by(block, token)
local slots = math.min(held, held_width)

-- Returns how many it runs. It goes on with what it has begun, also where its track has become narrower since (see lost.lua).
local function note_held()
  local its_width = math.max(width, math.min(held, held_width))
  hold(block, token, track, slots, held, its_width)
  return math.min(held, its_width)
end

local done, late, again_soon, failed = 0, 0, 0, false
local good, bad, sizes, attempts, measured, failures = {}, {}, {}, {}, {}, {}
-- Microseconds of those that ended well, then of those that failed, as in `times`.
local lasted, lasted_bad = {}, {}
-- Of those that failed, the node that it was at.
local nodes = {}
local times, took, queued, untimed = commits > 0 and cmsgpack.unpack(ARGV[9]) or {}, { ok = tally(), error = tally() }, tally(), { ok = 0, error = 0 }

-- Where in `times` there is more of a commit.
local more_of, has_more = {}, #times > 2 * commits
for i = 2 * commits + 1, #times, 6 do more_of[times[i]] = i end

local function note_spent(branch, at)
  local attempt, cpu, memory = times[at + 1], times[at + 2], times[at + 3]
  if attempt > 1 then attempts[#attempts + 1], attempts[#attempts + 2] = tonumber(branch), attempt end
  if cpu >= 0 or memory >= 0 then
    measured[#measured + 1], measured[#measured + 2], measured[#measured + 3] = tonumber(branch), cpu, memory
  end
  local calls = times[at + 5]
  if #calls > 0 then
    count('made_again', #calls / 4)
    failures[#failures + 1], failures[#failures + 2] = tonumber(branch), #calls
    for _, part in ipairs(calls) do failures[#failures + 1] = part end
  end
end

-- How long a committed branch was executed and had waited, with the blocks that it met.
local function note_times(branch, kind, at)
  local executed, waited = times[at], times[at + 1]
  if executed == -1 then
    local child = redis.call('HGET', key('m', block), 'at:' .. branch)
    local began = child and redis.call('HGET', key('b', child), 'began')
    local opened = opened_at(block)
    began = math.max(opened, tonumber(began or opened))
    executed, waited = (NOW - began) * 1000, (began - opened) * 1000
  end
  if not executed or executed < 0 then
    untimed[kind] = untimed[kind] + 1
  else
    add(took[kind], executed)
    add(queued, waited)
  end
end

for i = FIRST_COMMIT, FIRST_COMMIT - 1 + 3 * commits, 3 do
  local branch, kind, payload = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HGET', L, branch) ~= token then
    late = late + 1
  else
    redis.call('HDEL', L, branch)
    held = held - 1
    if bucket then limits().release(block, branch) end
    local number = (i - FIRST_COMMIT) / 3 + 1
    local more, its_times = has_more and more_of[number], 2 * number - 1
    if kind == 'again' then
      redis.call('HDEL', key('m', block), 'tried:' .. branch)
      redis.call('HSET', key('m', block), 'again:' .. branch, payload)
      redis.call('LPUSH', Q, branch)
      again_soon = again_soon + 1
      event('branch.again', 'block', block, 'branch', branch, 'lane', token, 'attempt', more and times[more + 1] or 1,
        'node', string.match(payload, ' (.*)') or '')
    else
      done = done + 1
      if more then note_spent(branch, more) end
      if block ~= ROOT then note_times(branch, kind, its_times) end
    end
    if kind == 'ok' then
      redis.call('HSET', R, branch, payload)
      local last = #good + 1
      good[last], sizes[last], lasted[last] = tonumber(branch), #payload, times[its_times]
    elseif kind == 'error' then
      redis.call('HSET', E, branch, payload)
      local last = #bad + 1
      bad[last], lasted_bad[last], nodes[last] = tonumber(branch), times[its_times], more and times[more + 4] or ''
      if on_error ~= 'collect' then
        redis.call('HSETNX', B, 'failed', branch)
        failed = true
      end
    end
  end
end
for i = FIRST_COMMIT + 3 * commits, FIRST_COMMIT - 1 + 3 * commits + releases do
  local branch = ARGV[i]
  if redis.call('HGET', L, branch) == token then
    redis.call('HDEL', L, branch)
    held = held - 1
    if bucket then limits().release(block, branch) end
    redis.call('LPUSH', Q, branch)
  end
end
if late > 0 then
  redis.call('HINCRBY', B, 'late', late)
  count('late', late)
  event('branches.late', 'block', block, 'count', late, 'lane', token)
end
count('again', again_soon)
if done > 0 then
  for kind, number in pairs(untimed) do
    count_tally('branch:' .. kind, took[kind])
    count('branches:' .. kind, number)
  end
  count_tally('queue', queued)
  local said = { 'block', block, 'ok', cmsgpack.pack(good), 'error', cmsgpack.pack(bad), 'lane', token, 'sizes', cmsgpack.pack(sizes) }
  for _, microseconds in ipairs(lasted_bad) do lasted[#lasted + 1] = microseconds end
  add_packed(said, 'took', lasted)
  add_packed(said, 'nodes', nodes)
  add_packed(said, 'attempts', attempts)
  add_packed(said, 'spent', measured)
  add_packed(said, 'failures', failures)
  event('branches.ended', unpack(said))
end

if failed then
  note_held()
  fail(block, 'error')
  return answer('error', 0, 0, {}, {}, late)
end
if done > 0 and redis.call('HINCRBY', B, 'done', done) == tonumber(n) then
  note_held()
  return answer('ok', 0, 0, {}, carry_on(complete(block)), late)
end

-- Branches that may take others with them, or were taken too often, run alone or among themselves until all have ended.
local alone = held > 0 and held_width < width
if alone then width = held_width end

local again, first, count = {}, 0, 0
if want == 0 then want = width end
if held ~= believed then
  local all = redis.call('HGETALL', L)
  for i = 1, #all, 2 do
    if all[i + 1] == token then
      local attempt, after, tried = attempt_of(block, all[i], 1)
      for _, part in ipairs({ all[i], attempt, after, tried }) do again[#again + 1] = part end
    end
  end
  note_held()
  return answer('open', 0, -1, again, {}, late)
end

if paused or held_until() then
  if not paused then hint_soon(block) end
  note_held()
  return answer('open', 0, 0, {}, {}, late)
end

if want < 0 then
  if held == 0 and waiting_for_lanes(block, track) > 0 then ask_lane(block, track) end
  note_held()
  return answer('open', 0, 0, {}, {}, late)
end

-- Whether the lane that has opened the block comes to it, and nobody was there before.
local is_first = fresh == '0' and opener == token
limit, lanes, fresh, stop = tonumber(limit), tonumber(lanes), tonumber(fresh or 0), tonumber(stop or 0)
local todo, parked = waiting(block, track), 0
local free = math.huge
if limit > 0 then free = limit - (tonumber(redis.call('HGET', B, 'running')) - slots) end
-- Places that this lane may take: one for each branch that begins with the node that has the limit.
local room, placed = math.huge, {}
if bucket then room = limits().room_for(named, block, track, held == 0 and commits == 0) end
if todo > 0 and free > 0 then
  -- A lane of many takes its equal part at once; one of width 1 takes ever less, so that all end at about the same time.
  local share, most = math.ceil(tonumber(of_track) / lanes), math.min(want, width, free)
  -- The first one is alone with the block until it calls others, and then gives back what it has not begun.
  if width == 1 then share, most = is_first and want or math.ceil(todo / (2 * lanes)), want end
  local take = math.min(math.max(1, math.min(most, share)) - held, todo)
  if alone then take = 0 end
  -- One after the other would hold places that others could use.
  if bucket and width == 1 then take = math.min(take, 1 - held) end
  local leases, group, of_leases = {}, 'any', {}
  while take > 0 do
    local branch = redis.call('LPOP', Q)
    if not branch then break end
    local attempt, after, tried, company = attempt_of(block, branch, width)
    local needs_place = bucket and after == ''
    local child_again = after ~= '' and redis.call('HGET', key('b', after), 'state') ~= 'ok'
    local busy = held + #leases > 0
    if child_again and not busy then
      -- The run was retried, and now there is room for the block that this branch stands at.
      redis.call('HSET', L, branch, PARKED)
      redis.call('HINCRBY', B, 'running', 1)
      reopen(after)
      parked = parked + 1
      if parked >= free or reopened >= REOPENED_AT_MOST then take = 0 end
    elseif child_again or (busy and (company == 'alone' or company ~= group)) or (needs_place and room <= #placed) then
      redis.call('LPUSH', Q, branch)
      take = 0
    else
      for _, part in ipairs({ branch, attempt, after, tried }) do again[#again + 1] = part end
      leases[#leases + 1], leases[#leases + 2] = branch, token
      if attempt > 1 then of_leases[#of_leases + 1], of_leases[#of_leases + 2] = tonumber(branch), attempt end
      take, group = math.min(take, tonumber(string.match(company, ' (%d+)') or take)) - 1, company
      if needs_place then placed[#placed + 1] = branch end
      if group == 'alone' then take = 0 end
    end
  end
  -- No others join them.
  if group ~= 'any' then width, take = #leases / 2, 0 end
  count = math.max(0, math.min(take, stop - fresh, room - #placed))
  if count > 0 then
    first = fresh
    redis.call('HSET', B, 'next:' .. track, fresh + count)
    for branch = first, first + count - 1 do leases[#leases + 1], leases[#leases + 2] = branch, token end
    if bucket then
      for branch = first, first + count - 1 do placed[#placed + 1] = branch end
    end
  end
  in_parts(leases, function(...) redis.call('HSET', L, ...) end)
  held = held + #leases / 2
  if #leases > 0 then
    local branches = {}
    for i = 1, #leases, 2 do branches[#branches + 1] = tonumber(leases[i]) end
    local said = { 'block', block, 'branches', cmsgpack.pack(branches), 'lane', token }
    add_packed(said, 'attempts', of_leases)
    event('branches.started', unpack(said))
  end
end
if bucket then
  limits().take(bucket, block, token, placed)
  -- With room left, or none in the block, it is not this that they wait for.
  local waits = room <= #placed and free > held and waiting(block, track) > 0
  ask_after = limits().queue(bucket, block, track, waits, #placed > 0)
end
-- There are more blocks to open again than one call may, and this lane leaves.
if reopened >= REOPENED_AT_MOST and held == 0 and waiting(block, track) > 0 then ask_lane(block, track) end
-- Given back while the lane is still at one of them: another lane has to come for the rest.
if releases > 0 and believed > 0 and width == 1 then ask_lane(block, track) end
local runs = note_held()
-- A lane that came is looked after from now on.
if slots == 0 and held > 0 then hint_soon(block) end
if limit > 0 then ask_for_slots(block, slots - runs - parked) end
return answer('open', first, count, again, {}, late)
