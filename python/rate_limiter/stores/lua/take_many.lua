-- take_many.lua -- decide for several clients of one limit, each separately, in one call. It goes
-- after a line that sets `bounded`, see bucket.lua.
--
-- KEYS     buckets, in the order of the requests; a bucket may occur several times
-- ARGV     scale, cap, min_ttl_ms of the limit, as in bucket.lua, with scale above 0;
--          then the cost of each request, then 1 if the limit counts denied requests
-- reply    two numbers for each request, such as {1, lacks, 0, lacks, 2, 0, ...}: 1 for allowed or
--          0 for denied, and the deficit afterwards in units; or 2 and 0 for a bucket in another
--          form (another type, a state set by hand): nothing was done, use take.lua

local call, pcall, format, match = redis.call, redis.pcall, string.format, string.match
local KEYS, ARGV = KEYS, ARGV
local scale, cap, min_ttl_ms = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0
local denied_most = ARGV[#KEYS + 4] == '1' and 2 * cap
local most = bounded and 2 * cap or 9007199254740992

local function write(key, now_us, lacks)
  local part = lacks % scale
  local us = (lacks - part) / scale
  local text = format('%.0f', now_us + us)
  if part > 0 then
    text = text .. format('+%.0f/%.0f', part, scale)
  end
  local ttl_ms = (us - us % 1000) / 1000 + 2
  if ttl_ms < min_ttl_ms then
    ttl_ms = min_ttl_ms
  end
  call('SET', key, text, 'PX', format('%.0f', ttl_ms))
end

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

local reply = {}
for i = 1, #KEYS do
  local key, cost = KEYS[i], ARGV[i + 3] + 0
  local value = pcall('GET', key)
  local lacks, clamped = 0, false
  if value then
    local full_us, part, parts
    if type(value) == 'string' then
      full_us = match(value, '^%d+$')
      if not full_us then
        full_us, part, parts = match(value, '^(%d+)%+(%d+)/([1-9]%d*)$')
      end
    end
    if not full_us then
      lacks = nil
    else
      lacks = (full_us - now_us) * scale
      if part then
        lacks = lacks + math.ceil(part * scale / parts)
      end
      if lacks < 0 then
        lacks = 0
      elseif not (lacks <= most) then -- NaN too
        lacks, clamped = most, bounded and most > 0
      end
    end
  end
  if not lacks then
    reply[2 * i - 1], reply[2 * i] = 2, 0
  elseif cost < 0 or lacks + cost > cap then
    if denied_most and lacks < denied_most then
      lacks = cost < 0 and denied_most or math.min(lacks + cost, denied_most)
      write(key, now_us, lacks)
    elseif clamped then
      write(key, now_us, lacks)
    end
    reply[2 * i - 1], reply[2 * i] = 0, lacks
  else
    if cost > 0 then
      lacks = lacks + cost
      write(key, now_us, lacks)
    end
    reply[2 * i - 1], reply[2 * i] = 1, lacks
  end
end
return reply
