-- Take the next computation that somebody waits for. KEYS: prefix. ARGV: worker, class, ...
local p, worker = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
for number = 2, #ARGV do
  local class = ARGV[number]
  while true do
    local next = redis.call('ZPOPMIN', p .. 'queue:' .. class)
    if #next == 0 then break end
    local key, score = next[1], next[2]
    local flight, clock = p .. 'flight:' .. key, p .. 'turn:' .. class
    local turn = math.floor(tonumber(score))
    if turn > tonumber(redis.call('GET', clock) or '0') then redis.call('SET', clock, turn) end
    local is = redis.call('HMGET', flight, 'state', 'id', 'request', 'user')
    if is[1] == 'queued' then
      if redis.call('ZCOUNT', p .. 'waiters:' .. key, now, '+inf') > 0 then
        redis.call('HSET', flight, 'state', 'running', 'worker', worker, 'score', score,
                   'class', class, 'seconds', 0, 'progress', '')
        redis.call('PUBLISH', p .. 'news', key)
        return {key, is[2], is[3], class, is[4]}
      end
      redis.call('DEL', flight)
    end
  end
end
return false
