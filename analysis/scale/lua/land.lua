-- What came of a computation. KEYS: prefix. ARGV: key, id, worker, error or empty, answer's name,
-- bytes, seconds they are kept, fingerprint, forward passes, whether the worker died of it.
local p, key, id, worker, problem, name = KEYS[1], unpack(ARGV, 1, 5)
local flight, deaths = p .. 'flight:' .. key, p .. 'deaths:' .. key
local is = redis.call('HMGET', flight, 'id', 'worker', 'state')
if is[1] ~= id or is[2] ~= worker or is[3] ~= 'running' then return 0 end
if problem == '' then
  redis.call('SET', p .. name, ARGV[6], 'EX', ARGV[7])
  redis.call('HSET', flight, 'state', 'done', 'answer', name, 'fingerprint', ARGV[8],
             'forwards', ARGV[9])
  redis.call('DEL', deaths)
else
  redis.call('HSET', flight, 'state', 'failed', 'error', problem)
  if ARGV[10] == '1' then redis.call('INCR', deaths) redis.call('EXPIRE', deaths, 3600) end
end
redis.call('EXPIRE', flight, 300)
redis.call('EXPIRE', p .. 'waiters:' .. key, 300)
redis.call('PUBLISH', p .. 'news', key)
return 1
