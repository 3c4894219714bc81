-- What processes have settled of budgets: one hash a window, with a field for what each of them has.
-- Each states its own part, never a change of it, so that nothing counts twice and a server that was emptied is filled again.
--
-- KEYS: the hash of each window. ARGV: node, then for each key: begin of the window, ttl (0: none), what the node has
-- settled. Gives the sum of each.
local out = {}
for i, key in ipairs(KEYS) do
  local start, ttl, mine = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  redis.call('HSET', key, 'n:' .. ARGV[1], start .. '|' .. mine)
  if ttl ~= '0' then redis.call('PEXPIRE', key, ttl) end
  local sum, all = 0, redis.call('HGETALL', key)
  for j = 1, #all, 2 do
    local from, amount = string.match(all[j + 1], '^(%d+)|(%d+)$')
    if from == start then
      sum = sum + tonumber(amount)
    elseif not from or tonumber(from) < tonumber(start) then
      redis.call('HDEL', key, all[j])
    end
  end
  out[i] = string.format('%.0f', sum)
end
return out
