-- window.lua -- windows as limits of the scripts of bucket.lua; it goes after bucket.lua.
--
-- Windows are aligned to this server's clock. The scripts treat a window as a bucket whose deficit
-- is the used count. csrc/engine/window.h has the arithmetic and its guarantees.
--
--     "29439552/7/20"   number of the window, its count, and the count of the previous window, which
--                       a fixed window ignores
--     "7"               a human-readable fixed window: only the count, under KEYS[i] and the start
--                       of the window in UTC, "...:2026-11-21-09:05" (with seconds if windows are
--                       no whole minutes). Not for a cluster, where all keys must be declared
--
-- ARGV      for a window: scale -1 (fixed), -2 (sliding) or -3 (fixed, with the date in the key);
--           its seconds in place of `token`, its count in place of `cap`; min_ttl_ms is ignored
-- reply     longer: {1 or 0, one number for each limit, now_us, current and previous of each window}

local floor, ceil = math.floor, math.ceil
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

local function key_of(i)
  if ARGV[5 * i - 4] ~= '-3' then
    return KEYS[i]
  end
  local length = tonumber(ARGV[5 * i - 3])
  local now = tonumber(time[1])
  return dated(KEYS[i], now - now % length, length)
end

-- Return a count, limited in case a larger one was set by hand.
local function count_of(digits)
  return math.min(tonumber(digits), 4000000000)
end

local function deficit_of(i, scale)
  if scale >= 0 then
    return bucket_deficit_of(i, scale)
  end
  local length_us = ARGV[5 * i - 3] * 1000000
  local into_us = now_us % length_us
  local window = {
    key = key_of(i),
    number = (now_us - into_us) / length_us,
    left_us = length_us - into_us,
    length_us = length_us,
    current = 0,
    previous = 0,
  }
  windows[i] = window
  local value = call('GET', window.key)
  if value and scale == -3 then
    if not match(value, '^%d+$') then
      return nil
    end
    window.current = count_of(value)
  elseif value then
    local number, current, previous = match(value, '^(%d+)/(%d+)/(%d+)$')
    if not number then
      return nil
    end
    local age = window.number - number
    if age <= 0 then -- below 0: this clock was set back, which must free nothing
      window.current, window.previous = count_of(current), count_of(previous)
    elseif age == 1 then
      window.previous = count_of(current)
    end
    if scale == -1 then
      window.previous = 0
    end
  end
  return window.current + ceil(window.previous * window.left_us / length_us)
end

local function write(i, lacks, scale, more)
  if scale >= 0 then
    return write_bucket(i, lacks, scale)
  end
  local window = windows[i]
  local rest = window.current + more
  window.current = math.max(0, rest)
  window.previous = math.max(0, window.previous + math.min(0, rest))
  if window.current + window.previous == 0 then
    call('DEL', window.key)
  elseif scale == -3 then
    local end_ms = ((window.number + 1) * window.length_us) / 1000
    call('SET', window.key, format('%.0f', window.current))
    call('PEXPIREAT', window.key, format('%.0f', end_ms))
  else
    local value = format('%.0f/%.0f/%.0f', window.number, window.current, window.previous)
    local counts_us = window.left_us + (scale == -2 and window.length_us or 0)
    call('SET', window.key, value, 'PX', format('%.0f', ceil(counts_us / 1000) + 1))
  end
end

local function reply_of(reply)
  reply[#KEYS + 2] = now_us
  for i = 1, #KEYS do
    local window = windows[i]
    if window then
      reply[#reply + 1] = window.current
      reply[#reply + 1] = window.previous
    end
  end
  return reply
end
