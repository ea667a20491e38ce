-- Renews the leases of running requests of a key.
-- KEYS: the key's running requests; ARGV: the lease in seconds, the requests
for place = 2, #ARGV do
  redis.call('ZADD', KEYS[1], text(now + tonumber(ARGV[1])), ARGV[place])
end
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1])) + 1)
return 1
