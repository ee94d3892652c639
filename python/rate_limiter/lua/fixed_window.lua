-- fixed_window.lua -- count in windows that are aligned to this server's clock.
--
-- KEYS[1]  what the counters of a client begin with; of a cluster, with a hash tag in it
-- ARGV     window   seconds, whole
--          limit    what a window allows, whole
--          cost     what this request counts, whole; 0 only looks
-- reply    {1 or 0, count of this window afterwards, microseconds until it ends}
--
-- The counter is KEYS[1] and the beginning of the window in UTC, "rate:user:bob:2026-11-21-09:05"
-- (seconds follow where windows are no whole minutes): a number that GET shows. It expires when
-- the window ends. A denied request writes nothing. Check and count are one step.

local call, floor = redis.call, math.floor
local window, limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local time = call('TIME')
local now = tonumber(time[1])
local start = now - now % window

-- Days since 1970 as a date: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
local days = floor(start / 86400) + 719468
local era = floor(days / 146097)
local day_of_era = days - era * 146097
local year_of_era = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524)
  - floor(day_of_era / 146096)) / 365)
local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
local shifted = floor((5 * day_of_year + 2) / 153)
local day = day_of_year - floor((153 * shifted + 2) / 5) + 1
local month = shifted < 10 and shifted + 3 or shifted - 9
local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)

local key = KEYS[1] .. string.format(':%04d-%02d-%02d-%02d:%02d', year, month, day,
  floor(start / 3600) % 24, floor(start / 60) % 60)
if window % 60 ~= 0 then
  key = key .. string.format(':%02d', start % 60)
end

local count = tonumber(call('GET', key) or 0)
if not count then
  return redis.error_reply('ERR rate_limiter: the value of ' .. key .. ' is no count')
end
local left_us = (start + window - now) * 1000000 - time[2]
if count + cost > limit then
  return {0, count, left_us}
end
if cost > 0 then
  count = call('INCRBY', key, cost)
  call('PEXPIREAT', key, string.format('%.0f', (start + window) * 1000))
end
return {1, count, left_us}
