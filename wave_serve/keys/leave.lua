-- Ends a request, and returns the tokens that were not used.
-- KEYS: the key's bucket of tokens, its running requests; ARGV: the bucket's limit, the tokens, the request
local limit, unused = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[3])
if limit > 0 and unused > 0 then
  store(KEYS[1], limit, level(KEYS[1], limit) + unused)
end
return 1
