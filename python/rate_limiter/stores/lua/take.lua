-- take.lua -- take the costs from all buckets, or deny and take nothing, except from limits that
-- count denied requests. See bucket.lua. The reply has the deficits afterwards.

-- Count a denied request. A deficit grows up to twice the cap; a sliding window with so many drops
-- its oldest. Return the deficit.
local function count_denied(i, lacks, is_clamped)
  local most, cost = 2 * ARGV[5 * i - 2], tonumber(ARGV[5 * i - 1])
  if cost < 0 or cost > most then
    cost = most
  end
  if lacks + cost > most then
    lacks = lacks - drop_oldest(i, lacks + cost - most)
    cost = math.max(0, math.min(cost, most - lacks))
  end
  if cost > 0 or is_clamped then
    write(i, lacks + cost, tonumber(ARGV[5 * i - 4]), cost)
  end
  return lacks + cost
end

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
if reply[1] == 1 then
  for i = 1, #KEYS do
    local cost = tonumber(ARGV[5 * i - 1])
    if cost > 0 then
      reply[i + 1] = reply[i + 1] + cost
      write(i, reply[i + 1], tonumber(ARGV[5 * i - 4]), cost)
    end
  end
else
  local denied = ARGV[5 * #KEYS + 1] or ''
  for i = 1, #KEYS do
    if string.sub(denied, i, i) == '1' then
      reply[i + 1] = count_denied(i, reply[i + 1], clamped[i])
    elseif clamped[i] then
      write(i, reply[i + 1], tonumber(ARGV[5 * i - 4]), 0)
    end
  end
end
return reply_of(reply)
