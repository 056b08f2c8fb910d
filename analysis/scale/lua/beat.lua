-- A worker is still at it. KEYS: prefix. ARGV: key, id, worker, progress, seconds.
local p, key, id, worker, progress, seconds = KEYS[1], unpack(ARGV, 1, 5)
local flight = p .. 'flight:' .. key
local is = redis.call('HMGET', flight, 'id', 'worker', 'state', 'progress')
if is[1] ~= id or is[2] ~= worker or is[3] ~= 'running' then return 'lost' end
local time = redis.call('TIME')
if redis.call('ZCOUNT', p .. 'waiters:' .. key, tonumber(time[1]), '+inf') == 0 then
  redis.call('HSET', flight, 'state', 'cancelled')
  redis.call('EXPIRE', flight, 60)
  return 'unwanted'
end
redis.call('HINCRBY', flight, 'beat', 1)
redis.call('HSET', flight, 'progress', progress, 'seconds', seconds)
if is[4] ~= progress then redis.call('PUBLISH', p .. 'news', key) end
return 'wanted'
