-- take_window.lua -- fast path of take.lua for one fixed window; it goes before bucket.lua.
--
-- For one fixed window of a length in seconds, a cost of 1 up to the count of the window, and a
-- string that is missing or was written by another request, this replies as take.lua would, in a
-- quarter of the time. All other cases fall through to take.lua, with nothing written. See bucket.lua
-- for KEYS, ARGV and the reply, and window.lua for the string and the rest of the reply.

local scale, cap, cost = ARGV[1], ARGV[3] + 0, ARGV[4] + 0
local length_us = (scale == '-1' or scale == '-4') and tonumber(ARGV[2])
if #KEYS == 1 and length_us and cost > 0 and cost <= cap and not ARGV[6] then
  local call = redis.call
  length_us = length_us * 1000000
  local time = call('TIME')
  local now_us = time[1] * 1000000 + time[2]
  local starts_first = scale == '-4'
  local start_us = starts_first and now_us or now_us - now_us % length_us
  local unit_us = starts_first and 1 or length_us -- of the number in the string
  local number, count = start_us / unit_us, 0
  local value = call('GET', KEYS[1])
  local is_window = true
  if value then
    local old_number, old_count = string.match(value, '^(%d+)/([1-9]%d*)/%d+$')
    -- A later window: this clock was set back.
    is_window = old_number and old_number + 0 <= number and old_count + 0 <= 4000000000
    if is_window and now_us - old_number * unit_us < length_us then
      number, count = old_number + 0, old_count + 0
    end
  end
  if is_window then
    local left_us = number * unit_us + length_us - now_us
    if count + cost > cap then
      return {0, count, left_us, left_us}
    end
    count = count + cost
    call('SET', KEYS[1], string.format('%.0f/%.0f/0', number, count), 'PX',
      string.format('%.0f', math.ceil(left_us / 1000) + 1))
    return {1, count, 0, left_us}
  end
end
