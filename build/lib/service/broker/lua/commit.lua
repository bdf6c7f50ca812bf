-- End a turn in one step: events, results, the next task or the end of the request, and the ack.
-- KEYS[1] request   hash    the record
-- KEYS[2] events    stream  and channel of its readers
-- KEYS[3] tasks     stream  that the task came from
-- KEYS[4] next      stream  of the next task (the same as KEYS[3] when there is none)
-- KEYS[5] load      hash    reserved work
-- KEYS[6] deadlines zset    loses the request when it ends
-- ARGV    fence, number of the first event, count, request id, group, entry id, next task or '',
--         terminal state or '', text and image work done, times to live of request and events in
--         s, then per event type, data, token ids; then pairs of fields for the record
-- Returns {'ok'} | {'stale'} | {'gap', seq}
local request, events, tasks, next_tasks, load, deadlines = unpack(KEYS)
local count = tonumber(ARGV[3])
local record = redis.call('HMGET', request, 'fence', 'committed', 'seq')
if record[1] ~= ARGV[1] then
  if record[2] == ARGV[1] then
    return {'ok'}
  end
  return {'stale'}
end
if tonumber(record[3]) < tonumber(ARGV[2]) then
  return {'gap', tonumber(record[3])}
end
local id = append(request, events, tonumber(ARGV[2]), count, 13)
redis.call('HDEL', request, 'open', 'streamed', 'progress', 'previews', 'uncounted')
set_fields(request, 13 + 3 * count)
redis.call('HSET', request, 'committed', ARGV[1], 'fence', '')
if id then
  redis.call('HSET', request, 'cursor', id)
end
if ARGV[8] ~= '' then
  finish(request, events, load, deadlines, ARGV[4], ARGV[8], ARGV[11], ARGV[12])
else
  release_work(request, load, 'text', tonumber(ARGV[9]))
  release_work(request, load, 'image', tonumber(ARGV[10]))
  redis.call('HINCRBY', request, 'turn', 1)
  redis.call('HSET', request, 'state', 'queued')
  redis.call('XADD', next_tasks, '*', 'task', ARGV[7])
end
redis.call('XACK', tasks, ARGV[5], ARGV[6])
return {'ok'}
