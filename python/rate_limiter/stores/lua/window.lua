-- window.lua -- windows as limits of the scripts of bucket.lua; it goes after sliding.lua.
--
-- Windows are aligned to this server's clock. The scripts treat a window as a bucket whose deficit
-- is the used count. csrc/engine/window.h and csrc/engine/sliding.h have the guarantees.
--
--     "29439552/7/0"    a fixed window: its number, its count, and a 0. The number is that of
--                       windows before it, the begin of a calendar window in seconds, or that of
--                       one which starts first in microseconds
--     "7"               a human-readable fixed window: only the count, under KEYS[i] and the start
--                       of the window in UTC, "...:2026-11-21-09:05" (with seconds if windows are
--                       no whole minutes). Not for a cluster, where all keys must be declared
--     "3*2@..."         a sliding window: see sliding.lua
--
-- ARGV      for a window: scale -1 (fixed), -2 (sliding), -3 (fixed, with the date in the key) or
--           -4 (fixed, starts with the first request); its seconds in place of `token`, its count
--           in place of `cap`; min_ttl_ms is ignored. A calendar window has four edges in place of
--           its seconds, "1790805600,1793487600,...": this server's time must be between them
-- reply     longer: {1 or 0, one number for each limit, two for each window}: the microseconds
--           after which a denied cost passes (0 if it would pass now, or never), and those after
--           which nothing counts, to the end of a window

local bucket_deficit_of, write_bucket = deficit_of, write
local windows = {}

local function dated(key, start, length)
  -- Days since 1970 as a date: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
  local days = floor(start / 86400) + 719468
  local era = floor(days / 146097)
  local day_of_era = days - era * 146097
  local year_of_era = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524)
    - floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era
    - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local shifted = floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - floor((153 * shifted + 2) / 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  key = key .. format(':%04d-%02d-%02d-%02d:%02d', year, month, day,
    floor(start / 3600) % 24, floor(start / 60) % 60)
  if length % 60 ~= 0 then
    key = key .. format(':%02d', start % 60)
  end
  return key
end

-- Return the begin and the end of the window of limit i, in microseconds, and whether it is one of a
-- calendar; nil if this server's time is not between the edges.
local function bounds_of(i)
  local length = ARGV[5 * i - 3]
  if not string.find(length, ',', 1, true) then
    local length_us = length * 1000000
    local start = now_us - now_us % length_us
    return start, start + length_us, false
  end
  local start
  for edge in string.gmatch(length, '%-?%d+') do
    edge = edge * 1000000
    if edge > now_us then
      return start, edge, true
    end
    start = edge
  end
end

local function key_of(i)
  if ARGV[5 * i - 4] ~= '-3' then
    return KEYS[i]
  end
  local start, ends, is_calendar = bounds_of(i)
  return start and dated(KEYS[i], start / 1000000, is_calendar and 60 or ARGV[5 * i - 3] + 0)
end

local no_value = no_bucket

local function no_bucket(i)
  if ARGV[5 * i - 4] ~= '-4' and not bounds_of(i) then
    return redis.error_reply(
      'ERR rate_limiter: the clocks of this server and of the client are too far apart')
  end
  return no_value(i)
end

-- Set number, left_us and count of a window by the value in Redis. Return nil if it is none.
local function read_first(window, value)
  local start, count = now_us, 0
  if value then
    start, count = match(value, '^(%d+)/(%d+)/%d+$')
    if not count then
      return nil
    end
    -- A later begin: this clock was set back, which must free nothing.
    start, count = min(start + 0, now_us), count_of(count)
    if count == 0 or now_us - start >= window.length_us then
      start, count = now_us, 0
    end
  end
  window.number, window.count = start, count
  window.left_us = start + window.length_us - now_us
  return window
end

local function read_fixed(window, value, is_dated)
  if value then
    local number, count = match(value, '^(%d+)/(%d+)/%d+$')
    if is_dated then
      number, count = window.number, match(value, '^%d+$')
    end
    if not count then
      return nil
    end
    -- A later number: this clock was set back, which must free nothing.
    window.count = window.number <= number + 0 and count_of(count) or 0
  end
  return window
end

-- Return a window of limit i without counts; nil if this server's time is not between the edges.
local function window_of(i, scale)
  local cap, start, ends, is_calendar = ARGV[5 * i - 2] + 0, now_us, now_us, false
  if scale ~= -4 then
    start, ends, is_calendar = bounds_of(i)
  end
  local length_us = is_calendar and 0 or start and ARGV[5 * i - 3] * 1000000
  return start and {
    key = key_of(i),
    number = is_calendar and start / 1000000 or start / length_us,
    left_us = ends - now_us,
    end_us = ends,
    length_us = length_us,
    edge_us = now_us - length_us,
    is_sliding = scale == -2,
    is_first = scale == -4,
    room = cap > 2 and cap <= 8 and cap or 2,
    count = 0,
  }
end

local function deficit_of(i, scale)
  if scale >= 0 then
    return bucket_deficit_of(i, scale)
  end
  local window = window_of(i, scale)
  windows[i] = window
  if not window then
    return nil
  end
  local value = call('GET', window.key)
  if window.is_sliding then
    return sliding.read(window, value) and sliding.used(window)
  elseif window.is_first then
    return read_first(window, value) and window.count
  end
  return read_fixed(window, value, scale == -3) and window.count
end

local function write_fixed(window, scale, more)
  window.count = max(0, window.count + more)
  if window.count == 0 then
    call('DEL', window.key)
  elseif scale == -3 then
    call('SET', window.key, format('%.0f', window.count))
    call('PEXPIREAT', window.key, format('%.0f', window.end_us / 1000))
  else
    local value = format('%.0f/%.0f/0', window.number, window.count)
    call('SET', window.key, value, 'PX', format('%.0f', ceil(window.left_us / 1000) + 1))
  end
end

local function write_sliding(window, more)
  if more > 0 then
    sliding.add(window, more)
  else
    sliding.subtract(window, -more)
  end
  local value, counts_us = sliding.value(window)
  if value then
    call('SET', window.key, value, 'PX', format('%.0f', ceil(counts_us / 1000) + 1))
  else
    call('DEL', window.key)
  end
end

local function write(i, lacks, scale, more)
  if scale >= 0 then
    write_bucket(i, lacks, scale)
  elseif scale == -2 then
    write_sliding(windows[i], more)
  else
    write_fixed(windows[i], scale, more)
  end
end

-- Return the microseconds until limit i has room for its cost.
local function wait_us(i, lacks)
  local window, cost = windows[i], tonumber(ARGV[5 * i - 1])
  local need = lacks + cost - ARGV[5 * i - 2]
  if cost < 0 or cost > tonumber(ARGV[5 * i - 2]) or need <= 0 then
    return 0
  end
  return window.is_sliding and sliding.wait_us(window, need) or window.left_us
end

local function drop_oldest(i, units)
  if not windows[i] or not windows[i].is_sliding then
    return 0
  end
  sliding.drop(windows[i], units)
  return units
end

local function reset_us(window)
  if window.is_first and window.count == 0 then
    return 0
  end
  if window.current then
    return window.left_us + window.length_us
  end
  return window.is_sliding and sliding.used(window) == 0 and 0 or window.left_us
end

local function reply_of(reply)
  for i = 1, #KEYS do
    if windows[i] then
      reply[#reply + 1] = reply[1] == 0 and wait_us(i, reply[i + 1]) or 0
      reply[#reply + 1] = reset_us(windows[i])
    end
  end
  return reply
end
