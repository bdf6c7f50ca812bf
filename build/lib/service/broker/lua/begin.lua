-- Begin an attempt at a delivered task: from now on only this attempt may write.
-- KEYS[1] request   hash    the record
-- KEYS[2] tasks     stream  that the task came from
-- ARGV    group, consumer, entry id, turn, nonce, most deliveries
-- Returns {'ok', fence, ms left, deliveries, record, request of its group or ''}
--         | {'done'}     the turn or the request has ended: the task is acknowledged here
--         | {'lost'}     another consumer holds the entry
--         | {'poison', deliveries} | {'late'}
local request, tasks = unpack(KEYS)
local record = redis.call('HMGET', request, 'state', 'turn', 'deadline', 'group')
if not record[1] or TERMINAL[record[1]] or record[2] ~= ARGV[4] then
  redis.call('XACK', tasks, ARGV[1], ARGV[3])
  return {'done'}
end
local pending = redis.call('XPENDING', tasks, ARGV[1], ARGV[3], ARGV[3], 1)[1]
if not pending or pending[2] ~= ARGV[2] then
  return {'lost'}
end
if pending[4] > tonumber(ARGV[6]) then
  return {'poison', pending[4]}
end
local left = record[3] - now_ms()
if left <= 0 then
  return {'late'}
end
local attempt = redis.call('HINCRBY', request, 'attempt', 1)
local fence = attempt .. ':' .. ARGV[5]
redis.call('HSET', request, 'state', 'running', 'fence', fence)
local asked = record[4] and redis.call('HGET', record[4], 'request') or ''
return {'ok', fence, left, pending[4], redis.call('HGETALL', request), asked}
