-- Keeps the values of one namespace within its bound of bytes, and changes one of them in a single step.
--
-- KEYS: bytes (their sum), sizes (hash: bytes of each key), ends (sorted set: keys that end, by when), then the value's
-- own key. ARGV: what is done, the guest's key, name before the guest's key in a value's key, bound in bytes, milliseconds
-- to live (empty: for ever), the value or what is added, and for `swap` what must stand now (absent: nothing).
local OVERHEAD = 160 -- as in memory: what the structures keep beside key and value; an estimate
local MOST = 128     -- keys looked at in one round of making room
local ROUNDS = 8

local bytes, sizes, ends, own = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local what, key, name, bound, ttl, value, expected = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function forget(k)
  local size = redis.call('HGET', sizes, k)
  if size then redis.call('DECRBY', bytes, size) end
  redis.call('HDEL', sizes, k)
  redis.call('ZREM', ends, k)
  return redis.call('DEL', name .. k)
end

-- Takes out what has ended, and what the server itself has thrown out. Whether there was any.
local function sweep()
  local over = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, MOST)
  for _, k in ipairs(over) do forget(k) end
  if #over > 0 then return true end
  local gone = false
  for _, k in ipairs(redis.call('HRANDFIELD', sizes, MOST)) do
    if redis.call('EXISTS', name .. k) == 0 then
      forget(k)
      gone = true
    end
  end
  return gone
end

local function keep(text)
  local size = 2 * #key + #text + OVERHEAD
  local before = tonumber(redis.call('HGET', sizes, key)) or 0
  local rounds = 0
  while (tonumber(redis.call('GET', bytes)) or 0) - before + size > bound do
    if rounds == ROUNDS or not sweep() then return 'full' end
    before = tonumber(redis.call('HGET', sizes, key)) or 0
    rounds = rounds + 1
  end
  if ttl ~= '' then
    redis.call('SET', own, text, 'PX', ttl)
    redis.call('ZADD', ends, string.format('%.0f', now + tonumber(ttl)), key)
  else
    redis.call('SET', own, text)
    redis.call('ZREM', ends, key)
  end
  redis.call('HSET', sizes, key, size)
  redis.call('INCRBY', bytes, size - before)
  return 'kept'
end

local stands = redis.call('GET', own)
if what == 'set' then return keep(value) end
if what == 'add' then
  if stands then return 'stands' end
  return keep(value)
end
if what == 'swap' then
  if stands ~= (expected or false) then return 'stands' end
  return keep(value)
end
if what == 'delete' then
  forget(key)
  return stands and 'gone' or 'nothing'
end
-- incr: the server adds, as numbers here have 53 bits only.
if not stands then
  local kept = keep(value)
  return kept == 'kept' and { value } or kept
end
local added = redis.pcall('INCRBY', own, value)
if type(added) == 'table' and added.err then
  return string.find(added.err, 'overflow') and 'overflow' or 'no number'
end
local sum = redis.call('GET', own)
local grown = #sum - #stands
redis.call('HINCRBY', sizes, key, grown)
redis.call('INCRBY', bytes, grown)
return { sum }
