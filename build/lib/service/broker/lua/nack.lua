-- Give a task back unfinished: it can be reclaimed after `pause` ms, before the lease expires.
-- KEYS[1] tasks     stream  that the task came from
-- KEYS[2] request   hash    the record
-- ARGV    group, consumer, entry id, fence or '', lease in ms, pause in ms, 1 if this
--         delivery is not counted, how often at most in a turn (0: always)
-- Returns {'ok'} | {'lost'}: another consumer holds the entry
local tasks, request = unpack(KEYS)
local pending = redis.call('XPENDING', tasks, ARGV[1], ARGV[3], ARGV[3], 1)[1]
if not pending or pending[2] ~= ARGV[2] then
  return {'lost'}
end
local uncounted, most = tonumber(ARGV[7]), tonumber(ARGV[8])
if uncounted > 0 and most > 0 and redis.call('HINCRBY', request, 'uncounted', 1) > most then
  uncounted = 0
end
redis.call('XCLAIM', tasks, ARGV[1], ARGV[2], 0, ARGV[3],
  'IDLE', math.max(0, ARGV[5] - ARGV[6]), 'RETRYCOUNT', math.max(0, pending[4] - uncounted), 'JUSTID')
if ARGV[4] ~= '' and redis.call('HGET', request, 'fence') == ARGV[4] then
  redis.call('HSET', request, 'fence', '', 'state', 'queued')
end
return {'ok'}
