-- Takes tokens from a key's bucket, or says that it has too few.
-- KEYS: the bucket; ARGV: its limit, the tokens that have to be there, the tokens to take
-- Returns whether they were there, and what is left.
local limit, needed, taken = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local left = level(KEYS[1], limit)
if needed - left > ROUNDING then
  return { 0, text(left) }
end
if taken ~= 0 then
  left = left - taken
  store(KEYS[1], limit, left)
end
return { 1, text(left) }
