-- What is counted for /metrics: by the transitions themselves, so it is right whoever asks, how often, and since when.
-- Prepended to each script, before _common.lua.
--
-- P = the prefix of KEYS[2]
--   P:counts                zset  series -> when a run was last submitted to it, server ms; a series is a workflow's name.
--                                 SERIES_AT_MOST of them: the rest is counted as "other", and of those that nobody has
--                                 submitted to for SERIES_KEPT the oldest makes room
--   P:counts:of:<series>    hash  "<what>" -> a number; of durations "<what> <bound>" -> how many were not longer than
--                                 the bound (ms; "more": than the last) but longer than the one before, and
--                                 "<what> sum" -> microseconds
--   P:counts:cluster        hash  the same of what belongs to no workflow
--
-- Durations: run:<state>, wait (a run's, for its first branch), block, branch:<outcome>, queue (a branch's, for a lane).
-- Numbers: submitted, retried, branches:<outcome> (of those that have no duration), lost (leases), late (commits),
-- again (calls of nodes with a limit that failed, and are made again), made_again (calls of others that failed and were).
--
-- Keeps: its cost is that of the transition, a few commands, and not that of the branches in it.

local COUNTS = string.gsub(KEYS[2], ':agenda$', '') .. ':counts'
local SERIES_AT_MOST, SERIES_KEPT, OTHER = 50, 7 * 86400 * 1000, 'other'
local BOUNDS = { 1, 5, 10, 50, 100, 500, 1000, 5000, 10000, 60000, 300000, 600000, 1800000, 3600000, 14400000, 86400000 }

-- The series of a new run's workflow.
local function series_for(workflow, at)
  if not redis.call('ZSCORE', COUNTS, workflow) and redis.call('ZCARD', COUNTS) >= SERIES_AT_MOST then
    local oldest, used = unpack(redis.call('ZRANGE', COUNTS, 0, 0, 'WITHSCORES'))
    if at - tonumber(used) < SERIES_KEPT then return OTHER end
    redis.call('ZREM', COUNTS, oldest)
    redis.call('UNLINK', COUNTS .. ':of:' .. oldest)
  end
  redis.call('ZADD', COUNTS, at, workflow)
  return workflow
end

local its_counts

-- Count something of this script's run.
local function count(what, number)
  its_counts = its_counts or COUNTS .. ':of:' .. (redis.call('HGET', KEYS[1], 'series') or OTHER)
  if number ~= 0 then redis.call('HINCRBY', its_counts, what, number) end
end

local function count_of_cluster(what, number)
  if number ~= 0 then redis.call('HINCRBY', COUNTS .. ':cluster', what, number) end
end

-- Durations that are counted together. A clock that was set back makes none of less than nothing.
local function tally() return { sum = 0, by = {} } end

local function add(seen, micros)
  if micros < 0 then micros = 0 end
  local millis, bound = micros / 1000, 'more'
  for i = 1, #BOUNDS do
    if millis <= BOUNDS[i] then
      bound = BOUNDS[i]
      break
    end
  end
  seen.by[bound] = (seen.by[bound] or 0) + 1
  seen.sum = seen.sum + micros
end

local function count_tally(what, seen)
  for bound, number in pairs(seen.by) do count(what .. ' ' .. bound, number) end
  count(what .. ' sum', seen.sum)
end

local function observe(what, millis)
  local seen = tally()
  add(seen, millis * 1000)
  count_tally(what, seen)
end
