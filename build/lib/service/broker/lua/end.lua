-- End a request from outside of a turn (cancel, deadline, failure). A worker that runs a turn of it
-- is refused from now on. Repeating it is harmless.
-- KEYS[1] request   hash    the record
-- KEYS[2] events    stream  and channel of its readers
-- KEYS[3] load      hash    reserved work
-- KEYS[4] deadlines zset    loses the request
-- ARGV    request id, terminal state, fence that must hold or '', times to live of request and
--         events in s, count, then per event type, data, ''; then pairs of fields for the record
-- Returns {'ok'} | {'ended', state} | {'missing'} | {'stale'}
local request, events, load, deadlines = unpack(KEYS)
local record = redis.call('HMGET', request, 'state', 'seq', 'fence')
if not record[1] then
  redis.call('ZREM', deadlines, ARGV[1])
  return {'missing'}
end
if TERMINAL[record[1]] then
  return {'ended', record[1]}
end
if ARGV[3] ~= '' and ARGV[3] ~= record[3] then
  return {'stale'}
end
local count = tonumber(ARGV[6])
append(request, events, tonumber(record[2]), count, 7)
set_fields(request, 7 + 3 * count)
finish(request, events, load, deadlines, ARGV[1], ARGV[2], ARGV[4], ARGV[5])
redis.call('PUBLISH', load, ARGV[1])
return {'ok'}
