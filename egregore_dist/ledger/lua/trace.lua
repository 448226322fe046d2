-- Begin the trace of a run that was submitted in none. The first that is begun stays.
--
-- ARGV  trace context
-- Returns the run's trace context, "" where there is no such run.

if redis.call('EXISTS', K) == 0 then return '' end
redis.call('HSETNX', K, 'trace', ARGV[1])
return redis.call('HGET', K, 'trace')
