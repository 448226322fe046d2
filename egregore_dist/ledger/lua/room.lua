-- Admit a lane to a machine, where it needs much of it: what such lanes have there together, whichever run and worker they are
-- of, never goes beyond what the machine may give. It belongs to no run.
--
-- KEYS[1]  <prefix>:machine:<host>  hash
--            "lane <worker> <lane>" -> "<bytes> <thousandths of a core> <group>", of a lane that was admitted
--            "wait <queue>" -> "<since> <seen>", server ms, of lanes that were not, while a worker there goes on asking
-- ARGV  what, worker, then
--       "begin": the worker has no lanes yet.  "free", lanes: these have ended.  "leave", queue: none of it waits any more
--       "admit", queue, lane or "" to see whether there is room, bytes for one branch, thousandths of a core,
--                group of the worker's processes, bytes that the group may give, and the machine, thousandths of a core that
--                it has, key of the lane's block or "", track
-- Returns { 1 if there is room else 0, bytes that lanes have there, thousandths of a core, lanes, 1 if others were first }
--
-- Who was refused first has its turn first, whatever it needs: so small needs do not keep a large one waiting for ever.
-- What a worker has counts while its report lives: one that is gone gives back all that its lanes had.

local MACHINE, what, worker = KEYS[1], ARGV[1], ARGV[2]
local PREFIX = string.sub(AGENDA, 1, -8)
-- Milliseconds: a turn is kept for who asked so lately, and what nobody uses is forgotten.
local ASKED_LATELY, KEPT = 2000, 86400000
local MINE = 'lane ' .. worker .. ' '

if what == 'free' then
  for i = 3, #ARGV do redis.call('HDEL', MACHINE, MINE .. ARGV[i]) end
  return { 1, 0, 0, 0, 0 }
end
if what == 'leave' then
  redis.call('HDEL', MACHINE, 'wait ' .. ARGV[3])
  return { 1, 0, 0, 0, 0 }
end
local known = redis.call('HGETALL', MACHINE)
if what == 'begin' then
  for i = 1, #known, 2 do
    if string.match(known[i], '^lane (.*) %S+$') == worker then redis.call('HDEL', MACHINE, known[i]) end
  end
  return { 1, 0, 0, 0, 0 }
end

local queue, lane, bytes, cpus, group = unpack(ARGV, 3, 7)
local of_group, of_machine, cores = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local width = ARGV[11] ~= '' and tonumber(redis.call('HGET', ARGV[11], 'width:' .. ARGV[12])) or 1
bytes, cpus = tonumber(bytes), tonumber(cpus)
-- A lane of many was planned for the machine as it was then: where it is too much now, it has all of it.
if width > 1 then bytes = math.min(bytes * width, of_group, of_machine) end

local alive = {}
local function is_alive(name)
  if alive[name] == nil then alive[name] = redis.call('EXISTS', PREFIX .. ':worker:' .. name) == 1 end
  return alive[name]
end

local in_group, all, busy, lanes, waits, first = 0, 0, 0, 0, nil, math.huge
for i = 1, #known, 2 do
  local kind, name = string.match(known[i], '^(%a+) (.*)$')
  if kind == 'lane' then
    -- A worker's name may have several words.
    local its_lane
    name, its_lane = string.match(name, '^(.*) (%S+)$')
    local its_bytes, its_cpus, its_group = string.match(known[i + 1], '^(%d+) (%d+) (.*)$')
    if not is_alive(name) then
      redis.call('HDEL', MACHINE, known[i])
    elseif name ~= worker or its_lane ~= lane then
      lanes = lanes + 1
      all, busy = all + tonumber(its_bytes), busy + tonumber(its_cpus)
      if its_group == group then in_group = in_group + tonumber(its_bytes) end
    end
  else
    local since, seen = string.match(known[i + 1], '^(%d+) (%d+)$')
    if tonumber(seen) + ASKED_LATELY < NOW then
      redis.call('HDEL', MACHINE, known[i])
    elseif name == queue then
      waits = tonumber(since)
    else
      first = math.min(first, tonumber(since))
    end
  end
end

local others_first = first < (waits or NOW)
local fits = in_group + bytes <= of_group and all + bytes <= of_machine and busy + cpus <= cores
local has_room = fits and not others_first and is_alive(worker)
if has_room and lane ~= '' then
  redis.call('HSET', MACHINE, MINE .. lane, string.format('%.0f %.0f %s', bytes, cpus, group))
  redis.call('HDEL', MACHINE, 'wait ' .. queue)
else
  redis.call('HSET', MACHINE, 'wait ' .. queue, string.format('%.0f %.0f', waits or NOW, NOW))
end
redis.call('PEXPIRE', MACHINE, KEPT)
return { has_room and 1 or 0, all, busy, lanes, others_first and 1 or 0 }
