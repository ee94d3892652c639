-- charge.lua -- take the costs even if the buckets have less. See bucket.lua.
-- A deficit is at most twice the cap. The reply has the deficits afterwards.

local reply, clamped = {1}, {}
for i = 1, #KEYS do
  local lacks
  lacks, clamped[i] = deficit_of(i, tonumber(ARGV[5 * i - 4]))
  if not lacks then
    return no_bucket(i)
  end
  reply[i + 1] = lacks
end
for i = 1, #KEYS do
  local room = 2 * ARGV[5 * i - 2] - reply[i + 1]
  local cost = math.min(tonumber(ARGV[5 * i - 1]), room)
  if cost > 0 or clamped[i] then
    reply[i + 1] = reply[i + 1] + cost
    write(i, reply[i + 1], tonumber(ARGV[5 * i - 4]), cost)
  end
end
return reply_of(reply)
