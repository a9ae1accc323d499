"""Counting events in Redis, in Lua that other scripts include: an event counts once, and never after a later one."""

from __future__ import annotations

COUNTERS = "saltern:counters"
"""Hash: kind of event → the highest counter there was of it, in decimal digits."""

COUNT = """
-- 'new' for a counter above all before it, which is kept; 'again' for the highest once more, 'older' below that.
-- Counters are nanoseconds, more than a Lua number can hold, and so compared as text.
local function count(key, kind, counter)
  local seen = redis.call('HGET', key, kind)
  if seen == counter then return 'again' end
  if seen and (#seen > #counter or (#seen == #counter and seen > counter)) then return 'older' end
  redis.call('HSET', key, kind, counter)
  return 'new'
end
"""
