-- A worker that shuts down returns what it could not finish. KEYS: prefix. ARGV: key, id, worker.
local p, key, id, worker = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local flight = p .. 'flight:' .. key
local is = redis.call('HMGET', flight, 'id', 'worker', 'state', 'class', 'score')
if is[1] ~= id or is[2] ~= worker or is[3] ~= 'running' then return 0 end
redis.call('HSET', flight, 'state', 'queued', 'worker', '', 'progress', '')
redis.call('ZADD', p .. 'queue:' .. is[4], is[5], key)
redis.call('PUBLISH', p .. 'news', key)
return 1
