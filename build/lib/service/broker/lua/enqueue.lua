-- Accept a request, or refuse it because too much work is reserved. Repeating it is harmless.
-- KEYS[1] request   hash    the new record
-- KEYS[2] events    stream  gets response.created and response.queued
-- KEYS[3] tasks     stream  gets the first task of each answer
-- KEYS[4] load      hash    reserved work
-- KEYS[5] deadlines zset    gets the id of each answer
-- KEYS[5 + i]       hash    the record of choice i, if the request is for several answers
-- ARGV[1] JSON      owner, deadline_ms, ttl_s; work {text, image} of one answer;
--                   bounds {text, image, active}; answers {id, task}: the request, or its choices
-- ARGV[2] the request, which is stored once: the choices' own requests follow from it
-- Returns {'ok', position} | {'exists', state} | {'full', stage, excess, drained per second}
local request, events, tasks, load, deadlines = unpack(KEYS)
local state = redis.call('HGET', request, 'state')
if state then
  return {'exists', state}
end

local asked, now = cjson.decode(ARGV[1]), now_ms()
local count, deadline = #asked.answers, now + asked.deadline_ms
local active = tonumber(redis.call('HGET', load, 'active') or '0')
for _, stage in ipairs({'text', 'image'}) do
  local reserved = tonumber(redis.call('HGET', load, stage .. ':work') or '0')
  local excess = reserved + count * asked.work[stage] - asked.bounds[stage]
  local crowded = stage == 'text' and active + count - asked.bounds.active or 0
  -- A request larger than the whole bound is accepted when no other is active.
  if active > 0 and (excess > 0 or crowded > 0) then
    local rate = drain_rate(load, stage, now)
    if crowded > 0 then
      excess = math.max(excess, reserved / active * crowded)
    end
    return {'full', stage, tostring(excess), tostring(rate)}
  end
end

redis.call('HINCRBY', load, 'text:work', count * asked.work.text)
redis.call('HINCRBY', load, 'image:work', count * asked.work.image)
redis.call('HINCRBY', load, 'active', count)
redis.call('XADD', events, '*', 'n', 0, 't', 'response.created', 'd', '{}')
local cursor = redis.call('XADD', events, '*', 'n', 1, 't', 'response.queued',
  'd', cjson.encode({position = active}))
redis.call('EXPIRE', events, asked.ttl_s)

local function open(record, seq, field, value)
  redis.call('HSET', record, field, value, 'owner', asked.owner, 'state', 'queued', 'turn', 0,
    'attempt', 0, 'fence', '', 'seq', seq, 'cursor', cursor, 'created', now, 'deadline', deadline)
  redis.call('EXPIRE', record, asked.ttl_s)
end

open(request, 2, 'request', ARGV[2])
if count > 1 then
  redis.call('HSET', request, 'choices', count)
end
for i, answer in ipairs(asked.answers) do
  local record = KEYS[5 + i] or request
  if count > 1 then
    open(record, 0, 'group', request)
  end
  redis.call('HSET', record, 'text_left', asked.work.text, 'image_left', asked.work.image)
  redis.call('ZADD', deadlines, deadline, answer.id)
  redis.call('XADD', tasks, '*', 'task', answer.task)
end
return {'ok', active}
