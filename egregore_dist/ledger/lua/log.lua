-- Keep lines that nodes have said.
--
-- ARGV  writer (worker and process), number of this call among the writer's, lines that were said since the one before, most
--       bytes of the run's lines, when the run was submitted, ids i, lines l, then i ids of lines to forget, then l encoded lines
-- Returns the ids of the lines that were added; none where the run is gone, or the call had been taken before
--
-- K:log   stream  by (the writer), line;  K:said  hash  lines (that were said, kept or not), bytes (of those that are kept),
--                 by:<writer> (the number of its last call)
--
-- Keeps: a call that is asked for again since its reply was lost adds nothing; the oldest lines make room for new ones; what is
-- said after the run's end expires with it.

local LOG, SAID = K .. ':log', K .. ':said'
-- What an entry takes beside its line.
local OVERHEAD, AT_ONCE, ROUNDS = 64, 100, 20
local writer, number, said, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local created, forget, lines = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])

local what = tidying()
if is_gone(created) or what == 'delete' then return {} end
if tonumber(redis.call('HGET', SAID, 'by:' .. writer) or 0) >= number then return {} end

local bytes = tonumber(redis.call('HGET', SAID, 'bytes') or 0)

local function drop(entries)
  for _, entry in ipairs(entries) do
    bytes = bytes - #entry[2][4] - OVERHEAD
    redis.call('XDEL', LOG, entry[1])
  end
end

for i = 8, 7 + forget do drop(redis.call('XRANGE', LOG, ARGV[i], ARGV[i])) end
local added = {}
for i = 8 + forget, 7 + forget + lines do
  added[#added + 1] = redis.call('XADD', LOG, '*', 'by', writer, 'line', ARGV[i])
  bytes = bytes + #ARGV[i] + OVERHEAD
end
-- What is left over makes room at the next call.
for _ = 1, ROUNDS do
  if bytes <= most then break end
  local oldest = redis.call('XRANGE', LOG, '-', '+', 'COUNT', AT_ONCE)
  if #oldest == 0 then break end
  local over, needed = bytes - most, {}
  for _, entry in ipairs(oldest) do
    if over <= 0 then break end
    over = over - #entry[2][4] - OVERHEAD
    needed[#needed + 1] = entry
  end
  drop(needed)
end
redis.call('HINCRBY', SAID, 'lines', said)
redis.call('HSET', SAID, 'bytes', bytes, 'by:' .. writer, number)
local left = redis.call('PTTL', K)
if left > 0 then
  redis.call('PEXPIRE', LOG, left)
  redis.call('PEXPIRE', SAID, left)
end
return added
