-- bucket.lua -- what take.lua, peek.lua and refund.lua have in common; it goes before each.
--
-- A bucket is one string: the time at which it is full again, in microseconds of this server's
-- clock (the theoretical arrival time of GCRA). No string is a full bucket.
--
--     "1732160000000000"        that time
--     "1732160000000000+1/3"    and a third of a microsecond
--     "2.5@1732160000.25"       set by hand: 2.5 tokens at that time, in seconds
--     "3145728"                 of a bucket that is never refilled: the units that it lacks
--
-- KEYS     the buckets of one client, one for each limit
-- ARGV     five whole numbers for each limit:
--            scale       units in a microsecond; 0: never refilled
--            token       units in a token
--            cap         units that an empty bucket lacks, at most 2^52
--            cost        units; -1: more than any bucket has
--            min_ttl_ms  the string is kept so long at least
-- reply    {1 or 0, units that each bucket lacks}
--
-- All numbers are whole and below 2^53, where doubles are exact. tostring() is not: it would
-- write 1.73216e+15.

local call, floor, ceil, format = redis.call, math.floor, math.ceil, string.format

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

local function limit_of(i)
  local at = 5 * (i - 1)
  return tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]),
    tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
end

-- The units that a bucket lacks; nil when the string is no bucket.
local function deficit_of(key, scale, token, cap)
  local value = call('GET', key)
  if not value then
    return 0
  end
  local full_us, part, parts = value:match('^(%d+)%+?(%d*)/?(%d*)$')
  local lacks
  if full_us then
    lacks = tonumber(full_us)
    if scale ~= 0 then
      lacks = (lacks - now_us) * scale
      if part ~= '' then
        if parts == '' then
          return nil
        end
        lacks = lacks + ceil(part * scale / parts)
      end
    end
  else
    local tokens, since_s = value:match('^(%-?%d+%.?%d*)@(%d+%.?%d*)$')
    if not tokens then
      return nil
    end
    lacks = ceil(cap - tokens * token)
    if scale ~= 0 then
      lacks = lacks - floor(math.max(0, now_us - since_s * 1000000) * scale)
    end
  end
  return math.min(math.max(lacks, 0), 9007199254740992)
end

local function no_bucket(key)
  return redis.error_reply('ERR rate_limiter: the value of ' .. key .. ' is no bucket')
end

local function write(key, lacks, scale, min_ttl_ms)
  if lacks == 0 then
    call('DEL', key)
  elseif scale == 0 then
    call('SET', key, format('%.0f', lacks))
  else
    local us = floor(lacks / scale)
    local part = lacks - us * scale
    local value = format('%.0f', now_us + us)
    if part > 0 then
      value = value .. format('+%.0f/%.0f', part, scale)
    end
    -- One more: the server counts from the last whole millisecond.
    local ttl_ms = math.max(ceil(lacks / scale / 1000) + 1, min_ttl_ms)
    call('SET', key, value, 'PX', format('%.0f', ttl_ms))
  end
end

