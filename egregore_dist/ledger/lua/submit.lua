-- Accept a run: its record, its code, its input, and block "0", which is the whole workflow as one branch.
-- The same id again changes nothing, so a client that saw a time-out may ask again; the answer says which run has the id.
--
-- The epoch is a random word that stands for the server's data: where they are lost it is lost with them, and the next run
-- that is accepted makes another. A run that is missing though its epoch is not the present one was lost, not deleted.
--
-- Of the server's memory a part is kept for what the runs that it has are yet to write: without it they could not end.
--
-- ARGV  the part of its memory from which on the server takes no new run, key of the epoch, epoch if there is none,
--       workflow name, spec, functions, queue of nodes that ask for none, input,
--       queue of the first step, retention ms, trace context or "", digest of the input or "", then digest, code, ...
-- Returns { 1 if the run is new else 0, epoch, 1 if it waits for its first lane else 0, when it was submitted,
--   name of its workflow, digest of its input or "", its state }. One that is not new may wait still: its submitter saw a
-- time-out, and has published nothing. Raises NEARLYFULL, and REMAINS.

local FIRST_CODE = 13
local full_at, epoch_key, new_epoch, workflow, spec, functions, default_queue, input, queue, retention, trace, digest = unpack(ARGV, 1, 12)

local function is_nearly_full()
  -- A server may forbid the question.
  local said = redis.pcall('INFO', 'memory')
  -- One that evicts keeps itself full.
  if type(said) ~= 'string' or not string.find(said, 'maxmemory_policy:noeviction', 1, true) then return false end
  local function bytes(name) return tonumber(string.match(said, '\n' .. name .. ':(%d+)')) or 0 end
  local most, used = bytes('maxmemory'), bytes('used_memory') - bytes('mem_not_counted_for_evict')
  -- This request is counted already, as what was received and as what was understood of it; one of both will be kept.
  return most > 0 and used - #input > most * full_at
end

-- Without a write: a server that is full would refuse it.
if redis.call('EXISTS', K) == 1 then
  local its_epoch, its_created, its_workflow, its_digest = unpack(redis.call('HMGET', K, 'epoch', 'created', 'workflow', 'digest'))
  local state = status()
  return { 0, its_epoch or '', state == 'pending' and 1 or 0, tonumber(its_created), its_workflow, its_digest or '', state }
end
-- Of a run that had the id and lost its record: its caller has it forgotten first.
if redis.call('EXISTS', BLOCKS, K .. ':end', CLOSING, unpack(keys_of(ROOT))) > 0 then return redis.error_reply('REMAINS of a run are there') end
if is_nearly_full() then return redis.error_reply('NEARLYFULL no new run is taken') end
redis.call('SETNX', epoch_key, new_epoch)
local epoch = redis.call('GET', epoch_key)

redis.call('HSET', K, 'state', 'pending', 'workflow', workflow, 'spec', spec, 'functions', functions, 'queue', default_queue, 'created', NOW,
  'retention', retention, 'epoch', epoch, 'series', series_for(workflow, NOW))
if trace ~= '' then redis.call('HSET', K, 'trace', trace) end
if digest ~= '' then redis.call('HSET', K, 'digest', digest) end
count('submitted', 1)
for i = FIRST_CODE, #ARGV, 2 do redis.call('HSET', K .. ':code', ARGV[i], ARGV[i + 1]) end
redis.call('SADD', K .. ':blocks', ROOT)
redis.call('SADD', K .. ':open', ROOT)
redis.call('SET', key('i', ROOT), input)
redis.call('HSET', key('b', ROOT), 'state', 'open', 'name', workflow, 'n', 1, 'limit', 0, 'running', 0, 'done', 0,
  'tracks', 1, 'lanes:0', 1, 'count:0', 1, 'next:0', 0, 'stop:0', 1, 'queue:0', queue, 'width:0', 1, 'on_error', 'cancel',
  'input', ROOT, 'path', '', 'opened', NOW)
will_use(queue)
schedule('hint', ROOT, NOW + HINT_AFTER)
redis.call('ZADD', RUNS, NOW, RUN)
event('run.submitted', 'workflow', workflow)
return { 1, epoch, 1, NOW, workflow, digest, 'pending' }
