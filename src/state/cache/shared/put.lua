-- Keeps answers within a bound of bytes. Those whose time ends first make room.
--
-- KEYS: ends (sorted set: digits of a key by its end), about (hash: what is told of each, its bytes first), bytes (their
-- sum), then for `put` the answer's own key and the stream of purges. ARGV: mode, digits, name before the digits in an answer's key, then for `put`: value,
-- milliseconds to live, bound in bytes, what is told, the last purge that its writer knows. `drop` takes the answers out whose digits follow the name.
local OVERHEAD = 400 -- what the four structures keep beside an answer's bytes; an estimate
local MOST = 512     -- answers that one script takes out; the next one goes on

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends, about, bytes = KEYS[1], KEYS[2], KEYS[3]
local mode, digits, name = ARGV[1], ARGV[2], ARGV[3]

local function forget(digits)
  local known = redis.call('HGET', about, digits)
  redis.call('ZREM', ends, digits)
  redis.call('HDEL', about, digits)
  if known then redis.call('DECRBY', bytes, string.match(known, '^%d+') or '0') end
  return redis.call('DEL', name .. digits)
end

-- Whatever else has come to lie under the names would fail every script from now on. Answers end by themselves.
for name, kind in pairs({ [ends] = 'zset', [about] = 'hash', [bytes] = 'string' }) do
  local is = redis.call('TYPE', name).ok
  if is ~= kind and is ~= 'none' then
    redis.call('DEL', ends, about, bytes)
    break
  end
end

if mode == 'drop' then
  local dropped = 0
  for i = 4, #ARGV do dropped = dropped + forget(ARGV[i]) end
  return dropped
end

local value, ttl, bound, told, heard = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]
-- A purge is told of before it takes anything out: what comes after its telling must know of it.
if redis.call('TYPE', KEYS[5]).ok == 'stream' and #redis.call('XRANGE', KEYS[5], '(' .. heard, '+', 'COUNT', 1) > 0 then
  return 'unheard'
end
forget(digits)
for _, over in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, MOST)) do forget(over) end
-- The server may have made room by itself: without any end there is nothing to count.
if redis.call('EXISTS', ends) == 0 then redis.call('DEL', about, bytes) end
local size = #value + #told + OVERHEAD
if size > bound then return 'full' end
local left = MOST
while (tonumber(redis.call('GET', bytes)) or 0) + size > bound do
  local first = redis.call('ZRANGE', ends, 0, 0)[1]
  if not first or left == 0 then return 'full' end
  forget(first)
  left = left - 1
end
redis.call('SET', name .. digits, value, 'PX', string.format('%.0f', ttl))
redis.call('ZADD', ends, string.format('%.0f', now + ttl), digits)
redis.call('HSET', about, digits, size .. '\31' .. told)
redis.call('INCRBY', bytes, size)
return 'kept'
