-- Give up a claim. KEYS: prefix. ARGV: key, id, waiter.
local p, key, id, waiter = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local flight, waiters = p .. 'flight:' .. key, p .. 'waiters:' .. key
if redis.call('HGET', flight, 'id') ~= id then return 0 end
redis.call('ZREM', waiters, waiter)
if redis.call('ZCARD', waiters) == 0 and redis.call('HGET', flight, 'state') == 'queued' then
  redis.call('ZREM', p .. 'queue:click', key)
  redis.call('ZREM', p .. 'queue:long', key)
  redis.call('DEL', flight)
end
return 1
