-- peek.lua -- return whether take.lua would allow the costs, and the present deficits.
-- Writes nothing, so a replica can answer. See bucket.lua.

local reply = {1}
for i = 1, #KEYS do
  local lacks = deficit_of(i, tonumber(ARGV[5 * i - 4]))
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
return reply_of(reply)
