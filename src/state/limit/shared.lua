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
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local mode, node, deadline = ARGV[1], 'n:' .. ARGV[2], tonumber(ARGV[3])
if deadline > 0 and now > deadline then return { 'late' } end
local known = redis.call('ZSCORE', KEYS[1], ARGV[2])
local states = mode == 'put' or mode == 'meet'

-- Resets that the node has not heard of.
local function unheard()
  return redis.call('XRANGE', KEYS[2], '(' .. ARGV[4], '+')
end

if mode == 'meet' and known then return { 'ok' } end
if states then
  local resets = unheard()
  if #resets > 0 then return { 'reset', resets } end
  if mode == 'meet' then redis.call('ZADD', KEYS[1], now, ARGV[2]) end
elseif mode ~= 'look' and not known then
  return { 'unknown' }
end

local IDLE = 30000 -- a process that has said nothing of what is under way for so long is gone

local function read(i)
  local a = 4 + (i - 1) * 11
  local w = {
    key = KEYS[i + 2], kind = ARGV[a + 1], length = tonumber(ARGV[a + 2]), start = tonumber(ARGV[a + 3]),
    limit = tonumber(ARGV[a + 4]), hard = ARGV[a + 5] == '1', ttl = tonumber(ARGV[a + 6]),
    mark = tonumber(ARGV[a + 7]), reserved = tonumber(ARGV[a + 8]), amount = tonumber(ARGV[a + 9]),
    quantum = tonumber(ARGV[a + 10]), least = tonumber(ARGV[a + 11]), granted = 0, cur = 0, prev = 0, own = 0,
  }
  if w.kind == 'b' then
    local h = redis.call('HMGET', w.key, 'd', 'at')
    local debt, at = tonumber(h[1]) or 0, tonumber(h[2]) or now
    w.start = math.max(now, at)
    w.cur = math.max(0, debt - w.limit * (w.start - at) / w.length)
    w.used = w.cur
    return w
  end
  local all = redis.call('HGETALL', w.key)
  if w.kind == 'i' then
    for j = 1, #all, 2 do
      local count, at = string.match(all[j + 1], '^(%d+)|(%d+)$')
      if at and now - tonumber(at) < IDLE then
        w.cur = w.cur + tonumber(count)
        if all[j] == node then w.own = tonumber(count) end
      else
        redis.call('HDEL', w.key, all[j])
      end
    end
    w.start, w.used = 0, w.cur
    return w
  end
  if w.kind ~= 'c' then w.start = now - now % w.length end
  local start
  for j = 1, #all, 2 do
    local value = tonumber(all[j + 1])
    if all[j] == 's' then start = value
    elseif all[j] == 'p' then w.prev = value
    else
      w.cur = w.cur + value
      if all[j] == node then w.own = value end
    end
  end
  if start and start > w.start then
    w.start = start
  elseif start ~= w.start then
    local follows = w.kind == 's' and start and w.start - start == w.length
    w.prev = follows and w.cur or 0
    w.cur, w.own = 0, 0
    if mode ~= 'look' then
      redis.call('DEL', w.key)
      redis.call('HSET', w.key, 's', string.format('%.0f', w.start), 'p', string.format('%.0f', w.prev))
      if w.ttl > 0 then redis.call('PEXPIRE', w.key, string.format('%.0f', w.ttl)) end
    end
  end
  w.used = w.cur
  if w.kind == 's' then
    w.used = w.cur + w.prev * math.max(0, w.length - (now - w.start)) / w.length
  end
  return w
end

local function write(w, own)
  if w.kind == 'b' then
    redis.call('HSET', w.key, 'd', string.format('%.6f', math.max(0, own)), 'at', string.format('%.0f', w.start))
  elseif w.kind == 'i' then
    redis.call('HSET', w.key, node, string.format('%.0f|%.0f', math.max(0, own), now))
  else
    redis.call('HSET', w.key, node, string.format('%.0f', math.max(0, own)))
  end
  if w.ttl > 0 then redis.call('PEXPIRE', w.key, string.format('%.0f', w.ttl)) end
end

-- What has nothing of a count that is not there need not make it.
local function says_nothing(i)
  return states and tonumber(ARGV[4 + (i - 1) * 11 + 9]) == 0 and redis.call('EXISTS', KEYS[i + 2]) == 0
end

local windows, out, room = {}, {}, true
for i = 1, #KEYS - 2 do
  local w = not says_nothing(i) and read(i)
  windows[i] = w
  if mode == 'take' then
    w.taken = w.amount
    if w.hard then
      local left = math.floor(w.limit - w.used)
      if left < w.least then room = false end
      w.taken = math.max(0, math.min(w.amount, left))
    end
  elseif mode == 'settle' then
    local over = math.max(0, w.amount - w.reserved)
    local back = math.max(0, w.reserved - w.amount)
    if w.kind == 'b' then
      write(w, w.cur + over - back)
    elseif w.kind == 'i' then
      write(w, w.own - back)
    elseif w.mark == w.start then
      write(w, w.own + over - back)
    else
      if w.kind == 's' and w.mark + w.length == w.start then
        redis.call('HSET', w.key, 'p', string.format('%.0f', math.max(0, w.prev - back)))
      end
      if over > 0 then write(w, w.own + over) end
    end
  elseif w and states and (w.kind == 'i' or (w.kind ~= 'b' and w.mark == w.start)) then
    write(w, w.amount)
  end
end
if mode ~= 'take' and mode ~= 'look' then return { 'ok' } end
for _, w in ipairs(windows) do
  if mode == 'look' then
    w.taken = 0
  elseif room then
    if w.used + w.taken + w.quantum <= w.limit then w.granted = w.quantum end
    write(w, (w.kind == 'b' and w.cur or w.own) + w.taken + w.granted)
  end
  for _, number in ipairs({ w.used, w.start, w.cur, w.prev, w.granted, w.taken }) do
    out[#out + 1] = string.format('%.0f', math.ceil(number))
  end
end
-- What is taken is counted after them: the node must hear of them before it counts it, too.
return { room and 'ok' or 'no', tostring(redis.call('ZCARD', KEYS[1])), out, unheard() }
