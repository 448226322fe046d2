-- Open a block that a branch has met: write the block, and park the branch until the block has ended.
-- Asked again by the same lane after a lost reply, it changes nothing.
--
-- ARGV  parent, branch, token, block, track of the branch, n, limit or 0, timeout ms or 0, on_error, name, path,
--       input ("" : what follows is the input itself; else the block whose input it is), input bytes,
--       ms since the branch was begun, its calls in vain meanwhile as an event has them, or "", tracks t,
--       then per track: queue, width, lanes, count, limit or "", and where t > 1 as many branches as it counts
-- Returns { "open" | "gone", deadline in server ms or 0 }; "gone" : the lane does not hold the branch any more.
--
-- The block's record: state, name, path, n, limit, running (slots in use, parked branches included), done, failed (the
-- branch that failed first), late, tracks, next:<track> and stop:<track> (the untouched range), queue:<track>,
-- width:<track>, lanes:<track> (as planned), count:<track>, limit:<track> (by name, if its branches begin with a node that
-- has one, see _limits.lua), limited (whether any does), on_error, input, parent, branch, track (where it hangs),
-- opener (the lane that met it), began (when the branch was begun that it hangs on), timeout, opened, reopened (by a retry),
-- deadline, ends_by (the first deadline of this block and those around it) and ends_with (whose that is), ended,
-- moved:<track> (one that was made for branches that had too little memory, see lost.lua),
-- hinted (how often lanes were asked for again), ask_after (when they may be the next time).
-- Its size does not grow with the branches: each lane that comes reads all of it. What grows is in the marks.

local parent, branch, token, block, track = unpack(ARGV, 1, 5)
local n, limit, timeout, on_error, name, path = unpack(ARGV, 6, 11)
local input, bytes, since, failures, tracks = unpack(ARGV, 12, 16)
local P, L, B = key('b', parent), key('l', parent), key('b', block)

if is_gone('') or state_of(parent) ~= 'open' then return { 'gone', 0 } end
local holder = redis.call('HGET', L, branch)
if holder == PARKED and redis.call('HGET', B, 'opener') == token then
  return { 'open', tonumber(redis.call('HGET', B, 'deadline') or 0) }
end
if holder ~= token then return { 'gone', 0 } end

local held, width = held_by(parent, token)
hold(parent, token, track, math.min(held, width), held - 1, width)
redis.call('HSET', L, branch, PARKED)
redis.call('HINCRBY', P, 'running', 1)
-- One that goes on after another block was begun before that.
local before = redis.call('HGET', key('m', parent), 'at:' .. branch)
local began = before and redis.call('HGET', key('b', before), 'began') or NOW - tonumber(since)
redis.call('HSET', key('m', parent), 'at:' .. branch, block)
if redis.call('HGET', P, 'limited') then
  limits().release(parent, branch)
  limits().settle_soon()
end

if input == '' then
  input = block
  redis.call('SET', key('i', block), bytes)
end
redis.call('SADD', K .. ':blocks', block)
redis.call('SADD', K .. ':open', block)
redis.call('HSET', B, 'state', 'open', 'name', name, 'path', path, 'n', n, 'limit', limit, 'running', 0, 'done', 0,
  'tracks', tracks, 'on_error', on_error, 'input', input, 'parent', parent, 'branch', branch,
  'track', track, 'opener', token, 'began', began, 'opened', NOW)
local at = 17
for t = 0, tonumber(tracks) - 1 do
  local queue, its_width, lanes, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local named = ARGV[at + 4]
  at = at + 5
  will_use(queue)
  redis.call('HSET', B, 'queue:' .. t, queue, 'width:' .. t, its_width, 'lanes:' .. t, lanes,
    'count:' .. t, count)
  if named ~= '' then redis.call('HSET', B, 'limit:' .. t, limits().declare(named), 'limited', 1) end
  if tracks == '1' then
    redis.call('HSET', B, 'next:0', 0, 'stop:0', count)
  else
    in_parts(ARGV, function(...) redis.call('RPUSH', key('q', block) .. ':' .. t, ...) end, at, at + count - 1)
    for i = at, at + count - 1 do redis.call('HSET', key('m', block), 'track:' .. ARGV[i], t) end
    at = at + count
  end
end
if tonumber(timeout) > 0 then redis.call('HSET', B, 'timeout', timeout) end
local deadline = set_deadline(block)
schedule('hint', block, NOW + HINT_AFTER)
local said = { 'block', block, 'name', name, 'n', n }
if failures ~= '' then
  count('made_again', cmsgpack.unpack(failures)[2] / 4)
  said[#said + 1], said[#said + 2] = 'failures', failures
end
event('block.opened', unpack(said))
return { 'open', deadline }
