-- take_one.lua -- fast path of take.lua for the common case; it goes before bucket.lua.
--
-- For one limit that is refilled and does not count denied requests, a cost above 0 and a string without a fraction, this replies as
-- take.lua would, in four fifths of the time. All other cases fall through to take.lua, with
-- nothing written. See bucket.lua for KEYS, ARGV and the reply.

local scale, cost = ARGV[1] + 0, ARGV[4] + 0
if #KEYS == 1 and scale > 0 and cost > 0 and not ARGV[6] then
  local call, format = redis.call, string.format
  local time = call('TIME')
  local now_us = time[1] * 1000000 + time[2]
  local value = call('GET', KEYS[1])
  local full_us = value and tonumber(string.match(value, '^%d+$')) or not value and 0
  local lacks = full_us and (full_us - now_us) * scale
  if lacks and lacks <= (bounded and 2 * ARGV[3] or 9007199254740992) then
    if lacks < 0 then
      lacks = 0
    end
    if lacks + cost > ARGV[3] + 0 then
      return {0, lacks}
    end
    lacks = lacks + cost
    if lacks % scale == 0 then
      local us = lacks / scale
      local ttl_ms = (us - us % 1000) / 1000 + 2
      if ttl_ms < ARGV[5] + 0 then
        ttl_ms = ARGV[5]
      end
      call('SET', KEYS[1], format('%.0f', now_us + us), 'PX', format('%.0f', ttl_ms))
      return {1, lacks}
    end
  end
end

