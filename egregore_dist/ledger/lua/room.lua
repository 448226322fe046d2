-- Admit a lane to a machine, where it needs much of it: what such lanes have there together, whichever run and worker they are
-- of, never goes beyond what the machine may give. It belongs to no run.
--
-- KEYS[1]  <prefix>:machine:<host>  hash
--            "lane <worker> <lane>" -> "<until> <bytes> <thousandths of a core> <place>", of a lane that was admitted; it
--                                      counts until then, ms of the machine's clock, unless its worker says again that it has it
--            "wait <queue>\n<worker>" -> "<since> <seen> <lacks> <place>", of lanes that were not, while that worker goes on
--                                      asking, ms of that clock; lacks "group": there is room on the machine, and none in the group
--                                      that shares its memory, "cores": none in the one that shares its cores
--            a place is "<group>", or "<group>\n<CPU group>": of the worker's processes, "" for all of the machine
--            "clock" -> "<heard> <away>": when anybody asked last, server ms, and for how many ms nobody could
-- ARGV  what, worker, then
--       "sync", ms that it is good for, flat fives (lane, bytes, thousandths, group, CPU group): all that its lanes have
--       "leave", queue: none of it waits for this worker any more
--       "admit", queue, lane or "" to see whether there is room, bytes for one branch, thousandths of a core, group, CPU group,
--                bytes that the group may give, and the machine, thousandths of a core that the CPU group may, and the
--                machine, ms that it is good for, key of the lane's run or "", key of its block or "", key of what waits on its
--                track, track
-- Returns { said, bytes that other lanes have there, thousandths of a core in the CPU group, lanes, 1 if others were first,
-- bytes and thousandths that this one has, thousandths that others have on the machine }; said: 1 if there is room, 0 if not,
-- 2 if the lane has nothing to do there any more. Of "sync": { 1 if any wait there, and 0s }
--
-- Who was refused first has its turn first, whatever it needs: so small needs do not keep a large one waiting for ever. One
-- that its own group has no room for keeps nobody of other groups waiting.
-- What a worker has counts as long as it says so. While nobody could ask, the machine's clock stands still: after an outage all
-- that ran before it counts until its worker has had the time to say so again. So it does where the server's is set back.

local MACHINE, what, worker = KEYS[1], ARGV[1], ARGV[2]
local PREFIX = string.sub(AGENDA, 1, -8)
-- Milliseconds: a turn is kept for who asked so lately; a silence so long was an outage; what nobody uses is forgotten.
local ASKED_LATELY, SILENCE, KEPT = 2000, 3000, 86400000
local MINE = 'lane ' .. worker .. ' '

local function wait_of(queue, of) return 'wait ' .. queue .. '\n' .. of end

if what == 'leave' then
  redis.call('HDEL', MACHINE, wait_of(ARGV[3], worker))
  return { 1, 0, 0, 0, 0, 0, 0, 0 }
end

local known = redis.call('HGETALL', MACHINE)
local heard, away = NOW, 0
for i = 1, #known, 2 do
  if known[i] == 'clock' then
    heard, away = string.match(known[i + 1], '^(%d+) (%-?%d+)$')
    heard, away = tonumber(heard), tonumber(away)
  end
end
if NOW - heard > SILENCE or NOW < heard then away = away + NOW - heard end
local at = NOW - away
redis.call('HSET', MACHINE, 'clock', string.format('%.0f %.0f', NOW, away))
redis.call('PEXPIRE', MACHINE, KEPT)

local function place_of(group, cpu_group) return cpu_group == '' and group or group .. '\n' .. cpu_group end

local function take(lane, good_for, bytes, cpus, place)
  redis.call('HSET', MACHINE, MINE .. lane, string.format('%.0f %.0f %.0f %s', at + good_for, bytes, cpus, place))
end

if what == 'sync' then
  local has = {}
  for i = 4, #ARGV, 5 do
    has[MINE .. ARGV[i]] = true
    local place = place_of(ARGV[i + 3], ARGV[i + 4])
    take(ARGV[i], tonumber(ARGV[3]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), place)
  end
  local waits = 0
  for i = 1, #known, 2 do
    local kind, name = string.match(known[i], '^(%a+) ?(.*)$')
    if kind == 'wait' then
      local seen = string.match(known[i + 1], '^%d+ (%d+)')
      if tonumber(seen) + ASKED_LATELY >= at then waits = 1 end
    elseif kind == 'lane' and not has[known[i]] and string.match(name, '^(.*) %S+$') == worker then
      redis.call('HDEL', MACHINE, known[i])
    end
  end
  return { waits, 0, 0, 0, 0, 0, 0, 0 }
end

local queue, lane, bytes, cpus, group, cpu_group = unpack(ARGV, 3, 8)
local of_group, of_machine = tonumber(ARGV[9]), tonumber(ARGV[10])
local cores, machine_cores, good_for = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local run, block, track_queue, track = unpack(ARGV, 14, 17)
local place = place_of(group, cpu_group)
bytes, cpus = tonumber(bytes), tonumber(cpus)
if run ~= '' then
  local ended, ending = unpack(redis.call('HMGET', run, 'ended', 'ending'))
  if ended or ending or redis.call('EXISTS', run) == 0 then return { 2, 0, 0, 0, 0, 0, 0, 0 } end
end
if block ~= '' then
  local state, width, fresh, stop = unpack(redis.call('HMGET', block, 'state', 'width:' .. track, 'next:' .. track,
    'stop:' .. track))
  local untouched = tonumber(stop or 0) - tonumber(fresh or 0)
  if state ~= 'open' or (untouched <= 0 and redis.call('LLEN', track_queue) == 0) then
    return { 2, 0, 0, 0, 0, 0, 0, 0 }
  end
  -- A lane of many was planned for the machine as it was then: where it is too much now, it has all of it.
  width = tonumber(width or 1)
  if width > 1 then
    bytes, cpus = math.min(bytes * width, of_group, of_machine), math.min(cpus * width, cores, machine_cores)
  end
end

local in_group, all, busy, all_busy, lanes, waits, first = 0, 0, 0, 0, 0, nil, math.huge
for i = 1, #known, 2 do
  local kind, name = string.match(known[i], '^(%a+) ?(.*)$')
  if kind == 'lane' then
    local good_until, its_bytes, its_cpus, its_group, its_cpu_group =
      string.match(known[i + 1], '^(%d+) (%d+) (%d+) ([^\n]*)\n?(.*)$')
    if tonumber(good_until) <= at then
      redis.call('HDEL', MACHINE, known[i])
    elseif known[i] ~= MINE .. lane then
      lanes, all, all_busy = lanes + 1, all + tonumber(its_bytes), all_busy + tonumber(its_cpus)
      if its_group == group then in_group = in_group + tonumber(its_bytes) end
      if its_cpu_group == cpu_group then busy = busy + tonumber(its_cpus) end
    end
  elseif kind == 'wait' then
    local since, seen, lacks, its_group, its_cpu_group =
      string.match(known[i + 1], '^(%d+) (%d+) (%a+) ([^\n]*)\n?(.*)$')
    since = tonumber(since)
    if tonumber(seen) + ASKED_LATELY < at then
      redis.call('HDEL', MACHINE, known[i])
    elseif string.match(name, '^(.*)\n') == queue then
      waits = math.min(since, waits or since)
    elseif lacks == 'machine' or (lacks == 'group' and its_group == group)
      or (lacks == 'cores' and its_cpu_group == cpu_group) then
      first = math.min(first, since)
    end
  end
end

local others_first = first < (waits or at)
local in_machine = all + bytes <= of_machine and (cpus == 0 or all_busy + cpus <= machine_cores)
local has_memory, has_cores = in_group + bytes <= of_group, cpus == 0 or busy + cpus <= cores
local fits = in_machine and has_memory and has_cores
local has_room = fits and not others_first and redis.call('EXISTS', PREFIX .. ':worker:' .. worker) == 1
if has_room and lane ~= '' then
  take(lane, good_for, bytes, cpus, place)
  for i = 1, #known, 2 do
    if string.match(known[i], '^wait (.*)\n') == queue then redis.call('HDEL', MACHINE, known[i]) end
  end
else
  local lacks = (not in_machine or fits) and 'machine' or has_memory and 'cores' or 'group'
  redis.call('HSET', MACHINE, wait_of(queue, worker), string.format('%.0f %.0f %s %s', waits or at, at, lacks, place))
end
return { has_room and 1 or 0, all, busy, lanes, others_first and 1 or 0, bytes, cpus, all_busy }
