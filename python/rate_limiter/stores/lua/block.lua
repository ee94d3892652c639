-- block.lua -- deny all requests of a client for a time, unless it is blocked for longer. See bucket.lua.
-- The time is in microseconds, in place of the cost of the first limit.

local key, block_us = KEYS[1], tonumber(ARGV[4])
local value = call('GET', key) or ''
local rest, before_us = match(value, '^(.*)!(%d+)$')
if block_us > 0 and now_us + block_us > tonumber(before_us or 0) then
  local ttl_ms = call('PTTL', key)
  marks[key] = format('%.0f', now_us + block_us)
  put(key, rest or value, ttl_ms ~= -1 and math.max(0, ttl_ms) or nil)
end
return {1}
