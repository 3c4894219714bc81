-- Counts that several processes share: one hash a window, with a field for what each process has of it.
-- Every number that a process has is its own to correct, so a count can always be put right by whoever made it.
--
-- KEYS: the processes that are known, the resets that were told, then the hash of each window.
-- ARGV: mode, node, deadline in server time (0: none), the last reset that the node knows of, then for each key: kind, length, start, limit, hard, ttl, mark,
-- reserved, amount, quantum, least. Kinds: f fixed, s sliding, c calendar or total (`start` is the caller's), b bucket, i in
-- flight. Modes: `take` takes the amounts from all or from none, of a hard limit what is left down to `least`, and the quantum
-- of each beyond them where that has room; `settle` puts `amount` in the place of `reserved` taken at `mark`; `put` states what
-- the process has; `meet` does so, too, and makes the process known, if it is not; `look` changes nothing. Of a process that is
-- not known nothing is taken or settled: it must say first what it has, as the server may have been emptied. Nothing is stated
-- by one that has not heard of a reset: what it has may be what was reset.
local call, max, min, floor, ceil = redis.call, math.max, math.min, math.floor, math.ceil
local clock = call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)
local mode, node, deadline = ARGV[1], 'n:' .. ARGV[2], tonumber(ARGV[3])
if deadline > 0 and now > deadline then return { 'late' } end
local known = call('ZSCORE', KEYS[1], ARGV[2])
local states = mode == 'put' or mode == 'meet'

-- Resets that the node has not heard of.
local function unheard()
  return call('XRANGE', KEYS[2], '(' .. ARGV[4], '+')
end

if mode == 'meet' and known then return { 'ok' } end
if states then
  local resets = unheard()
  if #resets > 0 then return { 'reset', resets } end
  if mode == 'meet' then call('ZADD', KEYS[1], now, ARGV[2]) end
elseif mode ~= 'look' and not known then
  return { 'unknown' }
end

local IDLE = 30000 -- a process that has said nothing of what is under way for so long is gone

-- Has what has no end of its own end when it was left alone for long.
local function keep(key, ttl)
  if ttl ~= '0' then call('PEXPIRE', key, ttl) end
end

local function read(i)
  local a = 4 + (i - 1) * 11
  local key, kind, length, limit = KEYS[i + 2], ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 4])
  local w = {
    key = key, kind = kind, length = length, limit = limit, ttl = ARGV[a + 6], amount = tonumber(ARGV[a + 9]),
    start = 0, cur = 0, prev = 0, own = 0, used = 0, taken = 0, granted = 0,
  }
  if kind == 'b' then
    local h = call('HMGET', key, 'd', 'at')
    local debt, at = tonumber(h[1]) or 0, tonumber(h[2]) or now
    w.start = max(now, at)
    w.cur = max(0, debt - limit * (w.start - at) / length)
    w.used = w.cur
    return w
  end
  local all = call('HGETALL', key)
  local cur, own, prev = 0, 0, 0
  if kind == 'i' then
    for j = 1, #all, 2 do
      local count, at = string.match(all[j + 1], '^(%d+)|(%d+)$')
      if at and now - tonumber(at) < IDLE then
        cur = cur + tonumber(count)
        if all[j] == node then own = tonumber(count) end
      else
        call('HDEL', key, all[j])
      end
    end
    w.cur, w.own, w.used = cur, own, cur
    return w
  end
  local start, there = kind == 'c' and tonumber(ARGV[a + 3]) or now - now % length, nil
  for j = 1, #all, 2 do
    local field, value = all[j], tonumber(all[j + 1])
    if field == 's' then there = value
    elseif field == 'p' then prev = value
    else
      cur = cur + value
      if field == node then own = value end
    end
  end
  if there and there > start then
    start = there
  elseif there ~= start then
    prev = kind == 's' and there and start - there == length and cur or 0
    cur, own = 0, 0
    if mode ~= 'look' then
      call('DEL', key)
      call('HSET', key, 's', start, 'p', prev)
      keep(key, w.ttl)
    end
  end
  w.start, w.cur, w.own, w.prev, w.used = start, cur, own, prev, cur
  if kind == 's' then w.used = cur + prev * max(0, length - (now - start)) / length end
  return w
end

local function write(w, own)
  if w.kind == 'b' then
    call('HSET', w.key, 'd', string.format('%.6f', max(0, own)), 'at', w.start)
    keep(w.key, w.ttl)
  elseif w.kind == 'i' then
    call('HSET', w.key, node, string.format('%.0f|%.0f', max(0, own), now))
    keep(w.key, w.ttl)
  else
    -- It was given its end when its window began.
    call('HSET', w.key, node, max(0, own))
  end
end

-- What has nothing of a count that is not there need not make it.
local function says_nothing(i)
  return states and tonumber(ARGV[4 + (i - 1) * 11 + 9]) == 0 and call('EXISTS', KEYS[i + 2]) == 0
end

local windows, out, room = {}, {}, true
for i = 1, #KEYS - 2 do
  local w = not says_nothing(i) and read(i)
  local a = 4 + (i - 1) * 11
  windows[i] = w
  if mode == 'take' then
    w.taken = w.amount
    if ARGV[a + 5] == '1' then
      local left = floor(w.limit - w.used)
      if left < tonumber(ARGV[a + 11]) then room = false end
      w.taken = max(0, min(w.amount, left))
    end
  elseif mode == 'settle' then
    local mark, reserved = tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8])
    local over = max(0, w.amount - reserved)
    local back = max(0, reserved - w.amount)
    if w.kind == 'b' then
      write(w, w.cur + over - back)
    elseif w.kind == 'i' then
      write(w, w.own - back)
    elseif mark == w.start then
      write(w, w.own + over - back)
    else
      if w.kind == 's' and mark + w.length == w.start then
        call('HSET', w.key, 'p', max(0, w.prev - back))
      end
      if over > 0 then write(w, w.own + over) end
    end
  elseif w and states and (w.kind == 'i' or (w.kind ~= 'b' and tonumber(ARGV[a + 7]) == w.start)) then
    write(w, w.amount)
  end
end
if mode ~= 'take' and mode ~= 'look' then return { 'ok' } end
for i, w in ipairs(windows) do
  if mode == 'take' and room then
    local quantum = tonumber(ARGV[4 + (i - 1) * 11 + 10])
    if w.used + w.taken + quantum <= w.limit then w.granted = quantum end
    write(w, (w.kind == 'b' and w.cur or w.own) + w.taken + w.granted)
  end
  local n = #out
  out[n + 1], out[n + 2], out[n + 3] = ceil(w.used), w.start, ceil(w.cur)
  out[n + 4], out[n + 5], out[n + 6] = ceil(w.prev), w.granted, w.taken
end
-- What is taken is counted after them: the node must hear of them before it counts it, too.
return { room and 'ok' or 'no', tostring(call('ZCARD', KEYS[1])), out, unheard() }
