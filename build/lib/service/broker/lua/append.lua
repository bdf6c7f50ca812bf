-- Append events to turns in progress, to each only if its attempt still holds the turn.
-- KEYS[2n-1] request hash    the record of turn n
-- KEYS[2n]   events  stream  of its request, and the channel of its readers
-- ARGV    per turn: fence, number of the first event, count of items for the record, those (field,
--         value, ...), count of events, then per event type, data, token ids
-- Returns per turn {'ok'} | {'stale'} | {'gap', seq}: Redis has lost the events from number `seq`
--         | {'error'}: this turn's keys have wrong types or values
local function append_turn(request, events, first, num_fields, num_events)
  local record = redis.call('HMGET', request, 'fence', 'seq')
  if record[1] ~= ARGV[first] then
    return {'stale'}
  end
  local seq, base = tonumber(record[2]), tonumber(ARGV[first + 1])
  if seq < base then
    return {'gap', seq}
  end
  append(request, events, base, num_events, first + 4 + num_fields)
  if num_fields > 0 then
    redis.call('HSET', request, unpack(ARGV, first + 3, first + 2 + num_fields))
  end
  return {'ok'}
end

local replies = {}
local first = 1
for turn = 1, #KEYS / 2 do
  local num_fields = tonumber(ARGV[first + 2])
  local num_events = tonumber(ARGV[first + 3 + num_fields])
  -- A broken record of one turn must not stop the appends of the others.
  local done, reply = pcall(
    append_turn, KEYS[2 * turn - 1], KEYS[2 * turn], first, num_fields, num_events
  )
  replies[turn] = done and reply or {'error'}
  first = first + 4 + num_fields + 3 * num_events
end
return replies
