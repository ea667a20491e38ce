-- The beginning of each script: a bucket holds up to `limit` units and gains `limit` a minute, by the store's clock.
-- It is a hash of its level, when that was so, and the limit then; one that is full is not stored.
local ROUNDING = 0.01 -- as in refusals.py
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

-- Units in a bucket now. One whose limit was another is as empty in units as it was.
local function level(bucket, limit)
  local stored = redis.call('HMGET', bucket, 'level', 'at', 'limit')
  if not stored[1] then
    return limit
  end
  local before = tonumber(stored[3])
  local gained = math.max(0, now - tonumber(stored[2])) * before / 60
  return limit - before + math.min(before, tonumber(stored[1]) + gained)
end

local function store(bucket, limit, left)
  left = math.min(limit, left)
  redis.call('HSET', bucket, 'level', string.format('%.17g', left), 'at', string.format('%.6f', now), 'limit', limit)
  redis.call('PEXPIRE', bucket, math.ceil((limit - left) * 60000 / limit) + 1000)
end

local function text(number)
  return string.format('%.17g', number)
end
