-- A worker is silent: its computation goes back into the queue once, then it has failed.
-- KEYS: prefix. ARGV: key, id, the beat it stopped at, the error of a second time.
local p, key, id, beat, problem = KEYS[1], unpack(ARGV, 1, 4)
local flight, deaths = p .. 'flight:' .. key, p .. 'deaths:' .. key
local is = redis.call('HMGET', flight, 'id', 'beat', 'state', 'class', 'score')
if is[1] ~= id or is[2] ~= beat or is[3] ~= 'running' then return 'alive' end
redis.call('INCR', deaths)
redis.call('EXPIRE', deaths, 3600)
redis.call('HSET', flight, 'worker', '', 'progress', '')
redis.call('PUBLISH', p .. 'news', key)
if redis.call('HINCRBY', flight, 'losses', 1) >= 2 then
  redis.call('HSET', flight, 'state', 'failed', 'error', problem)
  redis.call('EXPIRE', flight, 300)
  return 'failed'
end
redis.call('HSET', flight, 'state', 'queued')
redis.call('ZADD', p .. 'queue:' .. is[4], is[5], key)
return 'queued'
