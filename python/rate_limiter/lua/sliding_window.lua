-- sliding_window.lua -- count in a window that slides, by two counters.
--
-- The window that ends now overlaps two aligned ones. What it holds is taken to be the count of the
-- present one and, of the one before, the part that it still overlaps:
--
--      previous        current
--     |────────────|──────────x
--            |<── window ────>|          used = current + previous * overlap / window
--
-- KEYS[1]  the state of a client: "number/current/previous", the first being that of the window
-- ARGV     window   seconds, whole
--          limit    what a window allows, whole
--          cost     what this request counts, whole; 0 only looks
-- reply    {1 or 0, used afterwards, rounded up, microseconds until the same request would pass}
--
-- A denied request writes nothing. The state expires when it cannot count any more.

local call, floor, ceil = redis.call, math.floor, math.ceil
local window_us, limit, cost = ARGV[1] * 1000000, tonumber(ARGV[2]), tonumber(ARGV[3])

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local number = floor(now_us / window_us)
local overlap_us = window_us - now_us % window_us

local current, previous = 0, 0
local value = call('GET', KEYS[1])
if value then
  local of, first, second = string.match(value, '^(%d+)/(%d+)/(%d+)$')
  if not of then
    return redis.error_reply('ERR rate_limiter: the value of ' .. KEYS[1] .. ' is no window')
  end
  local age = number - tonumber(of)
  if age <= 0 then -- below: this clock has stepped back, which must free nothing
    current, previous = tonumber(first), tonumber(second)
  elseif age == 1 then
    previous = tonumber(first)
  end
end

local used = current + ceil(previous * overlap_us / window_us)
if used + cost > limit then
  local wait_us
  if cost > limit then
    wait_us = -1 -- never
  elseif current + cost <= limit then
    wait_us = overlap_us - floor((limit - current - cost) * window_us / previous)
  else
    wait_us = overlap_us + window_us - floor((limit - cost) * window_us / current)
  end
  return {0, used, wait_us}
end
if cost > 0 then
  local text = string.format('%.0f/%.0f/%.0f', number, current + cost, previous)
  call('SET', KEYS[1], text, 'PX', string.format('%.0f', ceil((overlap_us + window_us) / 1000) + 1))
end
return {1, used + cost, 0}
