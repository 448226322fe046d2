-- Let a paused run go on: its lanes have left meanwhile, so they are asked for anew.
--
-- ARGV  when the run was submitted that is meant, or "", as in cancel.lua; "", or where the call before has come to
-- Returns { state after it, "" or where this call has come to, messages to publish }, the state "" where there is no such run.
-- Of a run that is not paused nothing is changed. Open blocks that nobody asks for are looked after by janitors all the same.

local cursor = ARGV[2]
if is_gone(ARGV[1]) then return { '', '', publish } end
if (cursor == '') ~= is_paused() or redis.call('HEXISTS', K, 'ending') == 1 then return { status(), '', publish } end
if cursor == '' then
  redis.call('HDEL', K, 'paused')
  event('run.resumed')
  cursor = '0'
end
local next_cursor, blocks = unpack(redis.call('SSCAN', K .. ':open', cursor, 'COUNT', SLICE))
for _, block in ipairs(blocks) do
  if not ends_with_another(block) then
    redis.call('HDEL', key('b', block), 'hinted', 'ask_after')
    hint_soon(block)
    ask_lanes(block)
  end
end
return { status(), next_cursor == '0' and '' or next_cursor, publish }
