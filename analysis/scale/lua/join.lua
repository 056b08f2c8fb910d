-- Ask for a computation, or for a share in the same one under way.
-- KEYS: prefix. ARGV: key, new id, request, user, class, waiter, lease in s, most that may wait.
local p, key, new, request, user, class, waiter = KEYS[1], unpack(ARGV, 1, 6)
local lease, most = tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local deaths = redis.call('GET', p .. 'deaths:' .. key)
if deaths and tonumber(deaths) >= 2 then return {'refused', deaths} end
local flight, waiters = p .. 'flight:' .. key, p .. 'waiters:' .. key
local state = redis.call('HGET', flight, 'state')
local fresh = state ~= 'queued' and state ~= 'running'
if fresh then
  local waiting = redis.call('ZCARD', p .. 'queue:click') + redis.call('ZCARD', p .. 'queue:long')
  if waiting >= most then return {'busy'} end
  redis.call('DEL', flight, waiters)
  redis.call('HSET', flight, 'id', new, 'state', 'queued', 'class', class, 'request', request,
             'losses', 0, 'beat', 0, 'seconds', 0, 'progress', '', 'user', user)
end
if state ~= 'running' then
  -- Each user's wishes stand one turn apart, behind the turn that is being served now.
  local served, clock = p .. 'served:' .. class, p .. 'turn:' .. class
  local turn = math.max(tonumber(redis.call('GET', clock) or '0'),
                        tonumber(redis.call('HGET', served, user) or '0')) + 1
  local queue = p .. 'queue:' .. class
  local score = turn + (redis.call('INCR', p .. 'arrivals') % 1000000) * 1e-7
  if class == 'click' or not redis.call('ZSCORE', p .. 'queue:click', key) then
    if not redis.call('ZSCORE', queue, key) then redis.call('HSET', served, user, turn) end
    redis.call('ZADD', queue, 'LT', score, key)
    redis.call('HSET', flight, 'class', class)
  end
  if class == 'click' then redis.call('ZREM', p .. 'queue:long', key) end
  redis.call('EXPIRE', served, 3600)
end
redis.call('ZADD', waiters, now + lease, waiter)
redis.call('EXPIRE', flight, 86400)
redis.call('EXPIRE', waiters, 86400)
return {fresh and 'new' or 'shared', redis.call('HGET', flight, 'id')}
