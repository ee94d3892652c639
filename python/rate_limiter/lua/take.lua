-- take.lua -- take the costs from all buckets, or deny and write nothing. See bucket.lua.
-- The reply tells what the buckets lack afterwards.

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
if reply[1] == 1 then
  for i, key in ipairs(KEYS) do
    local scale, _, _, cost, min_ttl_ms = limit_of(i)
    if cost > 0 then
      reply[i + 1] = reply[i + 1] + cost
      write(key, reply[i + 1], scale, min_ttl_ms)
    end
  end
end
return reply
