-- Apply an owner's limits, and find the request that its idempotency key was used for.
-- KEYS[1] owner     hash    token bucket: tokens, at
-- KEYS[2] running   zset    ids in progress (of requests, or of their choices) by expiry in ms
-- KEYS[3] once      string  request id and fingerprint of the body
-- ARGV    request id, fingerprint, time to live of the idempotency key in s (0: no key),
--         most concurrent (0: no limit), requests per minute (0: no limit), burst, ms until a
--         slot expires, then the ids that take one slot each
-- Returns {'ok'} | {'exists', request id} | {'conflict'} | {'rate', ms to wait}
--         | {'concurrent', request id, ...}
local bucket, running, once = unpack(KEYS)
local now = now_ms()
if ARGV[3] ~= '0' then
  local known = redis.call('GET', once)
  if known then
    local request_id, fingerprint = known:match('^(%S+) (%S+)$')
    if fingerprint ~= ARGV[2] then
      return {'conflict'}
    end
    return {'exists', request_id}
  end
end
redis.call('ZREMRANGEBYSCORE', running, '-inf', now)
local most = tonumber(ARGV[4])
local count = #ARGV - 7
if most > 0 and redis.call('ZCARD', running) + count > most then
  return {'concurrent', unpack(redis.call('ZRANGE', running, 0, 99))}
end
local per_minute, burst = tonumber(ARGV[5]), tonumber(ARGV[6])
if per_minute > 0 then
  local known = redis.call('HMGET', bucket, 'tokens', 'at')
  local tokens = tonumber(known[1] or burst)
  tokens = math.min(burst, tokens + (now - tonumber(known[2] or now)) * per_minute / 60000)
  local price = math.min(count, burst)
  if tokens < price then
    return {'rate', math.ceil((price - tokens) * 60000 / per_minute)}
  end
  redis.call('HSET', bucket, 'tokens', tostring(tokens - price), 'at', now)
  redis.call('EXPIRE', bucket, 3600)
end
for i = 8, #ARGV do
  redis.call('ZADD', running, now + ARGV[7], ARGV[i])
end
redis.call('PEXPIRE', running, ARGV[7], 'NX')
redis.call('PEXPIRE', running, ARGV[7], 'GT')
if ARGV[3] ~= '0' then
  redis.call('SET', once, ARGV[1] .. ' ' .. ARGV[2], 'EX', ARGV[3])
end
return {'ok'}
