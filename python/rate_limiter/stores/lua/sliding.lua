-- sliding.lua -- the runs of sliding windows; it goes between bucket.lua and window.lua.
--
-- csrc/engine/sliding.h has the method and its guarantees. Here times are in microseconds.
--
--     "3*2@1732190400000000,..."   a run: the number of its lumps, their size, and times in
--                                  microseconds: of each lump, or of the first and the last;
--                                  one run or two, in order
--     "29439552/7/20"              of an earlier version: number of the window, its count, and the
--                                  count of the previous window

local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max

-- Return a count, limited in case a larger one was set by hand.
local function count_of(digits)
  return min(tonumber(digits), 4000000000)
end

local function greatest_common_divisor(a, b)
  while b ~= 0 do
    a, b = b, a % b
  end
  return a
end

-- Return true if a run has the time of each lump.
local function run_is_exact(run)
  return #run.times == run.n
end

-- Return the time of number i of n that are evenly spaced; one alone stands at the last.
local function spaced_us(first, last, i, n)
  return i >= n - 1 and last or first + floor(i * (last - first) / (n - 1))
end

local function run_last(run)
  return run.times[#run.times]
end

-- Return the time of lump number i, from 0.
local function lump_us(run, i)
  return run_is_exact(run) and run.times[i + 1]
    or spaced_us(run.times[1], run_last(run), i, run.n)
end

-- Return the units of a run, or of nil, that came after `edge`, by lump_us().
local function run_after(run, edge)
  if not run or run_last(run) <= edge then
    return 0
  end
  local gone = 0
  if not run_is_exact(run) and run.times[1] <= edge then
    local first, steps = run.times[1], run.n - 1
    gone = min(steps, ceil((edge - first + 1) * steps / (run_last(run) - first)))
    -- Doubles round large products.
    while gone > 0 and lump_us(run, gone - 1) > edge do
      gone = gone - 1
    end
  end
  while lump_us(run, gone) <= edge do
    gone = gone + 1
  end
  return (run.n - gone) * run.lump
end

-- Return the first edge after which at least `units` fewer come than after `edge`.
local function run_edge(run, edge, units)
  return lump_us(run, ceil((run.n * run.lump - run_after(run, edge) + units) / run.lump) - 1)
end

-- Return a run of `count` units of another, from unit `skip` on, with this lump (a divisor of the
-- other's) and room for so many times. Those of a run that is not exact end at its last.
local function run_part(run, skip, count, lump, room)
  local exact, part = run_is_exact(run), {n = count / lump, lump = lump, times = {}}
  local first, last = lump_us(run, floor(skip / run.lump)), run_last(run)
  if exact then
    last = lump_us(run, floor((skip + count - 1) / run.lump))
  end
  if part.n > room then
    part.times = {first, last}
    return part
  end
  for i = 0, part.n - 1 do
    part.times[i + 1] = exact and lump_us(run, floor((skip + i * lump) / run.lump))
      or spaced_us(first, last, i, part.n)
  end
  return part
end

-- Return the part of a run after `edge`, with `units` fewer; nil if that is none.
local function run_without(run, edge, units, room)
  local after = run_after(run, edge)
  if after <= units then
    return nil
  end
  local lump = greatest_common_divisor(run.lump, units)
  return run_part(run, run.n * run.lump - after, after - units, lump, room)
end

-- Return the part of a run after `edge`, without its oldest `units`; nil if that is none.
local function run_without_oldest(run, edge, units, room)
  local after = run_after(run, edge)
  if after <= units then
    return nil
  end
  local lump = greatest_common_divisor(run.lump, units)
  return run_part(run, run.n * run.lump - after + units, after - units, lump, room)
end

-- Return a run, or nil, with `cost` units more, which come at the end.
local function run_with(run, now, cost, room)
  if not run then
    return {n = 1, lump = cost, times = {now}}
  end
  local lump = greatest_common_divisor(run.lump, cost)
  local more = run_part(run, 0, run.n * run.lump, lump, room)
  local before = more.n
  more.n = before + cost / lump
  now = max(now, run_last(run))
  if more.n > room then
    more.times = {more.times[1], now}
  else
    for i = before + 1, more.n do
      more.times[i] = now
    end
  end
  return more
end

local function run_of(text)
  local n, lump, rest = match(text, '^(%d+)%*(%d+)@([%d,]+)$')
  if not n then
    return nil
  end
  local run = {n = n + 0, lump = lump + 0, times = {}}
  local before = 0
  for time in string.gmatch(rest, '%d+') do
    time = time + 0
    if time < before or time >= 9007199254740992 then
      return nil
    end
    run.times[#run.times + 1], before = time, time
  end
  local fits = #run.times == run.n or #run.times == 2 and run.n > 2
  local count = run.n * run.lump
  return count > 0 and count <= 4000000000 and fits and run or nil
end

-- Return the evenly spaced run of an earlier version.
local function run_of_window(number, digits, length)
  local count = count_of(digits)
  local first = min(number * length, 4503599627370496)
  local last = min(max(first, now_us), first + length - 1)
  return count > 0 and {n = count, lump = 1, times = count == 1 and {last} or {first, last}} or nil
end

-- Return the runs that a value has: {nil or older, nil or newer}; nil if it has none.
local function runs_in(value, length)
  local number, current, previous = match(value, '^(%d+)/(%d+)/(%d+)$')
  if number then
    return {run_of_window(number - 1, previous, length), run_of_window(number, current, length)}
  end
  local older, newer = match(value, '^(%S+) (%S+)$')
  if older then
    older, newer = run_of(older), run_of(newer)
    return older and newer and {older, newer}
  end
  newer = run_of(value)
  return newer and {nil, newer}
end

-- Servers have slightly different clocks. A time that is further ahead was
-- written before this clock was set back.
local slack_us = 100000

local function run_is_ahead(run)
  return run and run_last(run) > now_us + slack_us
end

-- Let no request of a run, or of nil, have come after now.
local function run_clamp(run)
  for i, time in ipairs(run and run.times or {}) do
    run.times[i] = min(time, now_us)
  end
end

local sliding = {}

-- Set previous, current and is_ahead of a window by the value in Redis. Return nil if it is none.
function sliding.read(window, value)
  local runs = value and runs_in(value, window.length_us) or {}
  if value and not runs[1] and not runs[2] and not match(value, '^%d+/0/0$') then
    return nil
  end
  local older, newer = runs[1], runs[2]
  if older and not newer then
    older, newer = nil, older
  end
  local age = newer and window.number - floor(run_last(newer) / window.length_us)
  window.is_ahead = run_is_ahead(older) or run_is_ahead(newer)
  if age == 0 then
    window.previous, window.current = older, newer
    if window.is_ahead then
      run_clamp(older)
      run_clamp(newer)
    end
  elseif age == 1 then
    window.previous = newer
  elseif age and age < 0 then -- this clock was set back, which must free nothing
    local used = run_after(older, run_last(newer) - window.length_us)
      + newer.n * newer.lump
    window.current = run_with(nil, now_us, used)
  end
  return window
end

function sliding.used(window)
  return run_after(window.previous, window.edge_us) + run_after(window.current, window.edge_us)
end

function sliding.add(window, cost)
  window.current = run_with(window.current, now_us, cost, window.room)
end

function sliding.subtract(window, cost)
  local edge, room = window.edge_us, window.room
  local rest = cost - run_after(window.current, edge)
  window.current = window.current and run_without(window.current, edge, cost, room)
  window.previous = window.previous and run_without(window.previous, edge, max(0, rest), room)
end

-- Drop `units` of those in use, the oldest first.
function sliding.drop(window, units)
  local edge, room = window.edge_us, window.room
  local older = run_after(window.previous, edge)
  if older > 0 then
    window.previous = run_without_oldest(window.previous, edge, min(units, older), room)
  end
  if units > older then
    window.current = run_without_oldest(window.current, edge, units - older, room)
  end
end

-- Return how long it takes until `need` units of those in use have left.
function sliding.wait_us(window, need)
  local older = run_after(window.previous, window.edge_us)
  if need <= older then
    return run_edge(window.previous, window.edge_us, need) - window.edge_us
  end
  return run_edge(window.current, window.edge_us, need - older) - window.edge_us
end

local function text_of(run)
  local times = {}
  for i, time in ipairs(run.times) do
    times[i] = format('%.0f', time)
  end
  return format('%.0f*%.0f@', run.n, run.lump) .. table.concat(times, ',')
end

-- Return the value of a window and for how long it counts; nil for an empty one.
function sliding.value(window)
  local older, newer = window.previous, window.current
  if not older and not newer then
    return nil
  end
  local value = older and newer and text_of(older) .. ' ' .. text_of(newer)
  return value or text_of(newer or older), run_last(newer or older) - window.edge_us
end

