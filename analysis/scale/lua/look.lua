-- How a computation does; renews the claim of who asks.
-- KEYS: prefix. ARGV: key, id, waiter, lease in s.
local p, key, id, waiter, lease = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local flight, waiters = p .. 'flight:' .. key, p .. 'waiters:' .. key
local is = redis.call('HMGET', flight, 'id', 'state', 'beat', 'seconds', 'progress', 'error',
                      'answer', 'fingerprint', 'forwards', 'class')
if is[1] ~= id then return {'gone'} end
if is[2] == 'queued' or is[2] == 'running' then
  local time = redis.call('TIME')
  redis.call('ZADD', waiters, tonumber(time[1]) + lease, waiter)
  redis.call('EXPIRE', flight, 86400)
  redis.call('EXPIRE', waiters, 86400)
end
local ahead = 0
if is[2] == 'queued' then
  ahead = 1 + (redis.call('ZRANK', p .. 'queue:' .. is[10], key) or 0)
  if is[10] == 'long' then ahead = ahead + redis.call('ZCARD', p .. 'queue:click') end
end
return {is[2], is[3], is[4], is[5], is[6] or '', is[7] or '', is[8] or '', is[9] or '0',
        tostring(ahead)}
