-- refund.lua -- give the costs back to all buckets, up to their capacity. See bucket.lua.
-- The reply has the deficits afterwards.

local reply = {1}
for i = 1, #KEYS do
  local lacks = deficit_of(i, tonumber(ARGV[5 * i - 4]))
  if not lacks then
    return no_bucket(i)
  end
  reply[i + 1] = lacks
end
for i = 1, #KEYS do
  local cost = tonumber(ARGV[5 * i - 1])
  if cost > 0 and reply[i + 1] > 0 then
    reply[i + 1] = math.max(0, reply[i + 1] - cost)
    write(i, reply[i + 1], tonumber(ARGV[5 * i - 4]), -cost)
  end
end
return reply_of(reply)
