-- Elect a janitor, and tell it what is due. It belongs to no run.
--
-- KEYS[1]  <prefix>:janitor   string  the janitor that leads, until its lease ends
-- ARGV  janitor, lease ms, entries at most
-- Returns { 1 if it leads else 0, the server's word for its own life or "", entries of the agenda that are due, the oldest
-- first, buckets of limits that are, see _limits.lua, 1 if the server's memory is full else 0, keys that it has evicted in this
-- life or -1 where it does not say }. Beyond the most, deadlines: they do not wait behind the hints of a cluster that was away.
--
-- <prefix>:evictions  hash  server, evicted: what the last leader was told; until: when leases go on, since keys were evicted.
-- It never expires: a server that evicts what can expire first would lose it.
--
-- One call a round, whoever leads; a follower's changes nothing. Two that both believe to lead do no harm: what they do are
-- transitions. A lease is prolonged by PEXPIRE, which a server does also while its memory is full.

local BEHIND, HOLD = 50, 30000

local me, lease, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local leader = redis.call('GET', KEYS[1])

-- One value of INFO; nil where the server forbids the question, or does not say it.
local function info(section, pattern)
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and string.match(text, pattern) or nil
end

-- A server that has another word was started anew, or is another one: what it was told last it may not have.
local server = info('server', 'run_id:(%w+)') or ''
local evicted = tonumber(info('stats', 'evicted_keys:(%d+)') or -1)
local leads = not leader or leader == me
-- A server whose memory is full refuses a follower's too, which changes nothing.
local tried = redis.pcall(unpack(leads and { 'SET', KEYS[1], me, 'PX', lease } or { 'SETNX', KEYS[1], me }))
local full = type(tried) == 'table' and tried.err
if full and not leader then return tried end
if not leads then return { 0, server, {}, {}, full and 1 or 0, evicted } end
local last_server, last_evicted = unpack(redis.call('HMGET', EVICTIONS, 'server', 'evicted'))
if last_server ~= server or tonumber(last_evicted) ~= evicted then
  redis.pcall('HSET', EVICTIONS, 'server', server, 'evicted', evicted)
  if last_server == server and evicted > tonumber(last_evicted) then redis.pcall('HSET', EVICTIONS, 'until', NOW + HOLD) end
end
if full then redis.call('PEXPIRE', KEYS[1], lease) end
local due = redis.call('ZRANGEBYSCORE', AGENDA, '-inf', NOW, 'LIMIT', 0, most)
if #due == most then
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', AGENDA, '-inf', NOW, 'LIMIT', most, BEHIND * most)) do
    if string.find(entry, ' deadline ', 1, true) then due[#due + 1] = entry end
  end
end
return { 1, server, due, limits().due(most), full and 1 or 0, evicted }
