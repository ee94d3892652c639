-- sliding.lua -- the runs of sliding windows; it goes between bucket.lua and window.lua.
--
-- csrc/engine/sliding.h has the method and its guarantees. Here times are in microseconds.
--
--     "20/1/1732190400000000/1732190405000000"   a run: its count, its lump, and when its first
--                                                and last request came; one or two, in order
--     "29439552/7/20"                            of an earlier version: number of the window, its
--                                                count, and the count of the previous window

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

-- Return the time of lump number i, from 0.
local function lump_us(run, i)
  local steps = run.count / run.lump - 1
  return i >= steps and run.last or run.first + floor(i * (run.last - run.first) / steps)
end

-- Return the units of a run, or of nil, that came after `edge`, by lump_us().
local function run_after(run, edge)
  if not run or run.last <= edge then
    return 0
  elseif run.first > edge then
    return run.count
  end
  local steps = run.count / run.lump - 1
  local gone = min(steps, ceil((edge - run.first + 1) * steps / (run.last - run.first)))
  -- Doubles round large products.
  while gone > 0 and lump_us(run, gone - 1) > edge do
    gone = gone - 1
  end
  while gone < steps and lump_us(run, gone) <= edge do
    gone = gone + 1
  end
  return run.count - gone * run.lump
end

-- Return the first edge after which at least `units` fewer come than after `edge`.
local function run_edge(run, edge, units)
  return lump_us(run, ceil((run.count - run_after(run, edge) + units) / run.lump) - 1)
end

-- Return the part of a run after `edge`, with `units` fewer; nil if that is none.
local function run_without(run, edge, units)
  local after = run_after(run, edge)
  if after <= units then
    return nil
  end
  return {
    count = after - units,
    lump = greatest_common_divisor(run.lump, units),
    first = lump_us(run, (run.count - after) / run.lump),
    last = run.last,
  }
end

local function run_of(text)
  local count, lump, first, last = match(text, '^(%d+)/([1-9]%d*)/(%d+)/(%d+)$')
  if not count then
    return nil
  end
  count, lump, first, last = count_of(count), lump + 0, first + 0, last + 0
  if count == 0 or count % lump ~= 0 or first > last or last >= 9007199254740992 then
    return nil
  end
  return {count = count, lump = lump, first = first, last = last}
end

-- Return the evenly spaced run of an earlier version.
local function run_of_window(number, digits, length)
  local count = count_of(digits)
  local first = min(number * length, 4503599627370496)
  local last = min(max(first, now_us), first + length - 1)
  return count > 0 and {count = count, lump = 1, first = first, last = last} or nil
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

local sliding = {}

-- Set previous and current of a window by the value in Redis. Return nil if it is none.
function sliding.read(window, value)
  local runs = value and runs_in(value, window.length_us) or {}
  if value and not runs[1] and not runs[2] and not match(value, '^%d+/0/0$') then
    return nil
  end
  local older, newer = runs[1], runs[2]
  if older and not newer then
    older, newer = nil, older
  end
  local age = newer and window.number - floor(newer.last / window.length_us)
  if age == 0 then
    window.previous, window.current = older, newer
  elseif age == 1 then
    window.previous = newer
  elseif age and age < 0 then -- this clock was set back, which must free nothing
    local used = run_after(older, newer.last - window.length_us) + newer.count
    window.current = {count = used, lump = 1, first = now_us, last = now_us}
  end
  return window
end

function sliding.used(window)
  return run_after(window.previous, window.edge_us) + run_after(window.current, window.edge_us)
end

function sliding.add(window, cost)
  local run = window.current
  if run then
    run.count, run.lump = run.count + cost, greatest_common_divisor(run.lump, cost)
    run.last = max(run.last, now_us)
  else
    window.current = {count = cost, lump = cost, first = now_us, last = now_us}
  end
end

function sliding.subtract(window, cost)
  local edge = window.edge_us
  local rest = cost - run_after(window.current, edge)
  window.current = window.current and run_without(window.current, edge, cost)
  window.previous = window.previous and run_without(window.previous, edge, max(0, rest))
end

-- Return how long it takes until `need` units of those in use have left.
function sliding.wait_us(window, need)
  local older = run_after(window.previous, window.edge_us)
  if need <= older then
    return run_edge(window.previous, window.edge_us, need) - window.edge_us
  end
  return run_edge(window.current, window.edge_us, need - older) - window.edge_us
end

-- Return the value of a window and for how long it counts; nil for an empty one.
function sliding.value(window)
  local texts = {}
  for _, run in ipairs({window.previous or false, window.current or false}) do
    if run then
      texts[#texts + 1] = format('%.0f/%.0f/%.0f/%.0f', run.count, run.lump, run.first, run.last)
    end
  end
  local newest = window.current or window.previous
  return newest and table.concat(texts, ' '), newest and newest.last - window.edge_us
end

