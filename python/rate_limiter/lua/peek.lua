-- peek.lua -- tell whether take.lua would allow the costs, and what the buckets lack now.
-- Writes nothing, so a replica can answer. See bucket.lua.

local reply = {1}
for i, key in ipairs(KEYS) do
  local scale, token, cap, cost = limit_of(i)
  local lacks = deficit_of(key, scale, token, cap)
  if not lacks then
    return no_bucket(key)
  end
  if cost < 0 or lacks + cost > cap then
    reply[1] = 0
  end
  reply[i + 1] = lacks
end
return reply
