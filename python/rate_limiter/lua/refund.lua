-- refund.lua -- give the costs back to all buckets, which are never more than full. See bucket.lua.
-- The reply tells what the buckets lack afterwards.

local reply = {1}
for i, key in ipairs(KEYS) do
  local scale, token, cap = limit_of(i)
  local lacks = deficit_of(key, scale, token, cap)
  if not lacks then
    return no_bucket(key)
  end
  reply[i + 1] = lacks
end
for i, key in ipairs(KEYS) do
  local scale, _, _, cost, min_ttl_ms = limit_of(i)
  if cost < 0 then
    cost = reply[i + 1]
  end
  if cost > 0 and reply[i + 1] > 0 then
    reply[i + 1] = math.max(0, reply[i + 1] - cost)
    write(key, reply[i + 1], scale, min_ttl_ms)
  end
end
return reply
