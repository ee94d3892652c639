-- take.lua -- take the costs from all buckets, or deny and take nothing. See bucket.lua.
-- The reply has the deficits afterwards.

local reply, clamped = {1}, {}
for i = 1, #KEYS do
  local lacks
  lacks, clamped[i] = deficit_of(i, tonumber(ARGV[5 * i - 4]))
  if not lacks then
    return no_bucket(i)
  end
  local cost = tonumber(ARGV[5 * i - 1])
  if cost < 0 or lacks + cost > tonumber(ARGV[5 * i - 2]) then
    reply[1] = 0
  end
  reply[i + 1] = lacks
end
if blocks then
  reply[1] = 0
end
if reply[1] == 1 then
  for i = 1, #KEYS do
    local cost = tonumber(ARGV[5 * i - 1])
    if cost > 0 then
      reply[i + 1] = reply[i + 1] + cost
      write(i, reply[i + 1], tonumber(ARGV[5 * i - 4]), cost)
    end
  end
else
  for i = 1, #KEYS do
    if clamped[i] then
      write(i, reply[i + 1], tonumber(ARGV[5 * i - 4]), 0)
    end
  end
end
return reply_of(reply)
