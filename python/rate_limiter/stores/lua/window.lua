-- window.lua -- windows as limits of the scripts of bucket.lua; it goes after sliding.lua.
--
-- Windows are aligned to this server's clock. The scripts treat a window as a bucket whose deficit
-- is the used count. csrc/engine/window.h and csrc/engine/sliding.h have the guarantees.
--
--     "29439552/7/0"    a fixed window: its number, its count, and a 0
--     "7"               a human-readable fixed window: only the count, under KEYS[i] and the start
--                       of the window in UTC, "...:2026-11-21-09:05" (with seconds if windows are
--                       no whole minutes). Not for a cluster, where all keys must be declared
--     "3*2@..."         a sliding window: see sliding.lua
--
-- ARGV      for a window: scale -1 (fixed), -2 (sliding) or -3 (fixed, with the date in the key);
--           its seconds in place of `token`, its count in place of `cap`; min_ttl_ms is ignored
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

local function key_of(i)
  if ARGV[5 * i - 4] ~= '-3' then
    return KEYS[i]
  end
  local length = tonumber(ARGV[5 * i - 3])
  local now = tonumber(time[1])
  return dated(KEYS[i], now - now % length, length)
end

local function deficit_of(i, scale)
  if scale >= 0 then
    return bucket_deficit_of(i, scale)
  end
  local length_us, cap = ARGV[5 * i - 3] * 1000000, ARGV[5 * i - 2] + 0
  local into_us = now_us % length_us
  local window = {
    key = key_of(i),
    number = (now_us - into_us) / length_us,
    left_us = length_us - into_us,
    length_us = length_us,
    edge_us = now_us - length_us,
    is_sliding = scale == -2,
    room = cap > 2 and cap <= 8 and cap or 2,
    count = 0,
  }
  windows[i] = window
  local value = value_of(i, window.key)
  if scale == -3 then
    value_of(i, KEYS[i]) -- which has only the mark
  end
  if window.is_sliding then
    return sliding.read(window, value) and sliding.used(window), window.is_ahead
  elseif value then
    local number, count = match(value, '^(%d+)/(%d+)/%d+$')
    if scale == -3 then
      number, count = window.number, match(value, '^%d+$')
    end
    if not count then
      return nil
    end
    -- A later number: this clock was set back, which must free nothing.
    window.count = window.number <= number + 0 and count_of(count) or 0
    window.is_ahead = number + 0 > floor((now_us + slack_us) / length_us)
  end
  return window.count, window.is_ahead
end

local function write_fixed(window, scale, more)
  window.count = max(0, window.count + more)
  if window.count == 0 then
    drop(window.key)
  elseif scale == -3 then
    local end_ms = ((window.number + 1) * window.length_us) / 1000
    call('SET', window.key, format('%.0f', window.count))
    call('PEXPIREAT', window.key, format('%.0f', end_ms))
  else
    local value = format('%.0f/%.0f/0', window.number, window.count)
    put(window.key, value, ceil(window.left_us / 1000) + 1)
  end
end

local function write_sliding(window, more)
  if more > 0 then
    sliding.add(window, more)
  elseif more < 0 then
    sliding.subtract(window, -more)
  end
  local value, counts_us = sliding.value(window)
  if value then
    put(window.key, value, ceil(counts_us / 1000) + 1)
  else
    drop(window.key)
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

local function reset_us(window)
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
  return with_blocks(reply)
end
