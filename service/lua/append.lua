-- Append events in the middle of a turn, if the attempt still holds it.
-- KEYS[1] request   hash    the record
-- KEYS[2] events    stream  and channel of its readers
-- ARGV    fence, number of the first event, count, then per event type, data, token ids;
--         then pairs of fields for the record
-- Returns {'ok'} | {'stale'} | {'gap', seq}: Redis has lost events from number `seq` on
local request, events = unpack(KEYS)
local count = tonumber(ARGV[3])
local record = redis.call('HMGET', request, 'fence', 'seq')
if record[1] ~= ARGV[1] then
  return {'stale'}
end
if tonumber(record[2]) < tonumber(ARGV[2]) then
  return {'gap', tonumber(record[2])}
end
append(request, events, tonumber(ARGV[2]), count, 4)
set_fields(request, 4 + 3 * count)
return {'ok'}
