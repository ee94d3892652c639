-- bucket.lua -- common head of take.lua, charge.lua, peek.lua and refund.lua.
-- Order: a line that sets `bounded`, for take.lua a fast path (take_window.lua if one of the limits is
-- a window, else take_one.lua), bucket.lua, sliding.lua and window.lua (if one of the limits is a
-- window), then the script.
--
-- bounded  whether each key belongs to one limit. Then a bucket that lacks more than twice its
--          capacity was written while this server's clock was wrong: what it lacks is clamped, and
--          written again by the next script that may write. Otherwise another limit may have written
--          it, with a larger capacity.
--
-- A bucket is one string: the time at which it is full again, in microseconds of this server's
-- clock (the theoretical arrival time of GCRA). A missing string is a full bucket.
--
--     "1732160000000000"        that time
--     "1732160000000000+1/3"    and a third of a microsecond
--     "2.5@1732160000.25"       set by hand: 2.5 tokens at that time, in seconds
--     "3145728"                 for a bucket that is never refilled: its deficit in units
--     "...!1732160000000000"    the client is blocked until that time; what is before the mark, maybe
--                               nothing, is any of the above. Only the string of the first limit
--                               has a mark
--
-- KEYS     the buckets of one client, one for each limit
-- ARGV     five whole numbers for each limit:
--            scale       units per microsecond; 0: never refilled
--            token       units per token
--            cap         units of a full bucket, at most 2^52
--            cost        units; -1: more than any bucket has
--            min_ttl_ms  minimum lifetime of the string
--          then, for take.lua, if one of the limits counts denied requests: a 1 for each that does,
--          else a 0, as one text
-- reply    {1 or 0, deficit of each bucket in units}; in a denial of blocked clients there follow, for
--          each limit, the microseconds until its client is not blocked, or 0
--
-- Since Redis 5 a script that reads the clock may write, because its writes are replicated.
--
-- All numbers are whole and below 2^53, where doubles are exact. tostring() is not: it would
-- write 1.73216e+15.

-- Locals are found faster than globals.
local call, format, match, tonumber = redis.call, string.format, string.match, tonumber
local find = string.find
local KEYS, ARGV = KEYS, ARGV

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

-- The ends of blocks by key, and the microseconds that are left by limit; nil: no client is blocked.
local marks, blocks = {}, nil

-- Return the string of limit i without its mark, or false.
local function value_of(i, key)
  local value = call('GET', key)
  if not value or not find(value, '!', 1, true) then
    return value
  end
  local rest, until_us = match(value, '^(.*)!(%d+)$')
  if not until_us then
    return value
  end
  if until_us - now_us > 0 then
    marks[key] = until_us
    blocks = blocks or {}
    blocks[i] = until_us - now_us
  end
  return rest ~= '' and rest
end

-- Write the string of a key for so long (nil: without an end), with its mark.
local function put(key, value, ttl_ms)
  if marks[key] then
    value = value .. '!' .. marks[key]
    ttl_ms = ttl_ms and math.max(ttl_ms, math.ceil((marks[key] - now_us) / 1000) + 1)
  end
  if ttl_ms then
    call('SET', key, value, 'PX', format('%.0f', ttl_ms))
  else
    call('SET', key, value)
  end
end

local function drop(key)
  if marks[key] then
    put(key, '', 0)
  else
    call('DEL', key)
  end
end

-- Return a reply with the blocks of a denial.
local function with_blocks(reply)
  if blocks and reply[1] == 0 then
    for i = 1, #KEYS do
      reply[#reply + 1] = blocks[i] or 0
    end
  end
  return reply
end

-- Return the deficit of the bucket of limit i in units, and whether it was clamped; nil if its
-- string is no bucket.
local function deficit_of(i, scale)
  local value = value_of(i, KEYS[i])
  if not value then
    return 0
  end
  local full_us, part, parts = match(value, '^%d+$')
  if not full_us then
    full_us, part, parts = match(value, '^(%d+)%+(%d+)/([1-9]%d*)$')
  end
  local lacks
  if full_us then
    lacks = tonumber(full_us)
    if scale ~= 0 then
      lacks = (lacks - now_us) * scale
      if part then
        lacks = lacks + math.ceil(part * scale / parts)
      end
    end
  else
    local tokens, since_s = match(value, '^(%-?%d+%.?%d*)@(%-?%d+%.?%d*)$')
    if not tokens then
      return nil
    end
    lacks = math.ceil(ARGV[5 * i - 2] - tokens * ARGV[5 * i - 3])
    if scale ~= 0 then
      lacks = lacks - math.floor(math.max(0, now_us - since_s * 1000000) * scale)
    end
  end
  if lacks < 0 then
    return 0
  end
  local most = bounded and 2 * ARGV[5 * i - 2] or 9007199254740992
  if lacks <= most then
    return lacks, false
  end
  return most, bounded and most > 0 -- a limit of 0 keeps what others wrote
end

local function no_bucket(i)
  return redis.error_reply('ERR rate_limiter: the value of ' .. KEYS[i] .. ' is no bucket')
end

local reply_of = with_blocks

-- Make room for `units` in limit i by dropping the oldest ones; return how many were dropped.
local function drop_oldest(i, units)
  return 0
end

local function write(i, lacks, scale)
  if lacks == 0 then
    drop(KEYS[i])
  elseif scale == 0 then
    put(KEYS[i], format('%.0f', lacks))
  else
    local part = lacks % scale
    local us = (lacks - part) / scale
    local value = format('%.0f', now_us + us)
    if part > 0 then
      value = value .. format('+%.0f/%.0f', part, scale)
    end
    -- Rounded up, and one more: the server counts from the last whole millisecond.
    local ttl_ms, min_ttl_ms = (us - us % 1000) / 1000 + 2, tonumber(ARGV[5 * i])
    if ttl_ms < min_ttl_ms then
      ttl_ms = min_ttl_ms
    end
    put(KEYS[i], value, ttl_ms)
  end
end

