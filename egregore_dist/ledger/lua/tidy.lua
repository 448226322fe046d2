-- Go on with what a transition before has decided, and could not do all of in one call: see go_on.
--
-- Returns messages to publish, flat: with "tidy" among them, there is more to do.

if not is_gone('') then go_on() end
return publish
