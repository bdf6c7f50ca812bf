-- Requests whose deadline has passed.
-- KEYS[1] deadlines zset    request ids by deadline
-- ARGV    most ids to return
-- Returns request ids
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms(), 'LIMIT', 0, ARGV[1])
