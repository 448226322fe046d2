-- Let a paused run go on: its lanes have left meanwhile, so they are asked for anew.
--
-- Returns { state after it, messages to publish }, the state "" where there is no such run. Of a run that is not paused
-- nothing is changed.

if is_paused() then
  redis.call('HDEL', K, 'paused')
  event('run.resumed')
  for _, block in ipairs(redis.call('SMEMBERS', K .. ':open')) do
    redis.call('HDEL', key('b', block), 'hinted', 'ask_after')
    hint_soon(block)
    ask_lanes(block)
  end
end
return { status(), publish }
