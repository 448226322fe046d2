-- Accept a run: its record, its code, its input, and block "0", which is the whole workflow as one branch.
-- The same id again changes nothing, so a client that saw a time-out may ask again.
--
-- ARGV  workflow name, spec, functions, queue of nodes that ask for none, input, queue of the first step, retention ms, then digest, code, ...
-- Returns 1 if the run is new, else 0.

if redis.call('EXISTS', K) == 1 then return 0 end
local workflow, spec, functions, default_queue, input, queue, retention = unpack(ARGV, 1, 7)

redis.call('HSET', K, 'state', 'pending', 'workflow', workflow, 'spec', spec, 'functions', functions, 'queue', default_queue, 'created', NOW,
  'retention', retention)
for i = 8, #ARGV, 2 do redis.call('HSET', K .. ':code', ARGV[i], ARGV[i + 1]) end
redis.call('SADD', K .. ':blocks', ROOT)
redis.call('SADD', K .. ':open', ROOT)
redis.call('SET', key('i', ROOT), input)
redis.call('HSET', key('b', ROOT), 'state', 'open', 'name', workflow, 'n', 1, 'limit', 0, 'running', 0, 'done', 0,
  'tracks', 1, 'lanes:0', 1, 'count:0', 1, 'next:0', 0, 'stop:0', 1, 'queue:0', queue, 'width:0', 1, 'on_error', 'cancel',
  'input', ROOT, 'path', '', 'opened', NOW)
schedule('hint', ROOT, NOW + HINT_AFTER)
redis.call('ZADD', RUNS, NOW, RUN)
event('run.submitted', 'workflow', workflow)
return 1
