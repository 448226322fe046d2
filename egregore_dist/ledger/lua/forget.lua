-- Forget what is left of a run of which the server has lost part; of one that has ended, have it expire.
--
-- ARGV  when it was submitted, or 0 where its record is lost; then "keys" and some of its keys, or, last, "record" and what
--       the agenda has of it
-- Returns 1, or 0 where another run has the id meanwhile, and nothing is changed.

local created, ended, retention = unpack(redis.call('HMGET', K, 'created', 'ended', 'retention'))
if (created or '0') ~= ARGV[1] then return 0 end

local function forget(name)
  if not ended then
    redis.call('UNLINK', name)
  elseif redis.call('PTTL', name) == -1 then
    redis.call('PEXPIRE', name, retention)
  end
end

if ARGV[2] == 'keys' then
  for i = 3, #ARGV do forget(ARGV[i]) end
else
  for i = 3, #ARGV do redis.call('ZREM', AGENDA, ARGV[i]) end
  redis.call('HDEL', K, 'tidy')
  forget(K)
  if not ended then redis.call('ZREM', RUNS, RUN) end
end
return 1
