-- Counts a request of a key until its lease ends, or says what refuses it.
-- KEYS: the key's bucket of requests, its bucket of tokens, and its running requests: a sorted set by end of lease
-- ARGV: requests and tokens a minute, most running requests (each 0 where not limited), this request, its lease in s
-- Returns what refused it (''; 'concurrency', 'requests'), requests left and tokens left.
local requests, tokens, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local left, tokens_left = 0, 0
if tokens > 0 then
  tokens_left = level(KEYS[2], tokens)
end
if requests > 0 then
  left = level(KEYS[1], requests)
end
if most > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now))
  if redis.call('ZCARD', KEYS[3]) >= most then
    return { 'concurrency', text(left), text(tokens_left) }
  end
end
if requests > 0 then
  if 1 - left > ROUNDING then
    return { 'requests', text(left), text(tokens_left) }
  end
  left = left - 1
  store(KEYS[1], requests, left)
end
if most > 0 then
  redis.call('ZADD', KEYS[3], text(now + tonumber(ARGV[5])), ARGV[4])
  redis.call('EXPIRE', KEYS[3], math.ceil(tonumber(ARGV[5])) + 1)
end
return { '', text(left), text(tokens_left) }
