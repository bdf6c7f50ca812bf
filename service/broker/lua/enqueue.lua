-- Accept a request, or refuse it because too much work is reserved. Repeating it is harmless.
-- KEYS[1] request   hash    the new record
-- KEYS[2] events    stream  gets response.created and response.queued
-- KEYS[3] tasks     stream  gets the first tasks
-- KEYS[4] load      hash    reserved work
-- KEYS[5] deadlines zset    gets what runs
-- KEYS[n]           hash    records of its choices, if there are several
-- ARGV    request id, request, owner, deadline in ms, time to live in s, text work, image work
--         (of one choice), bounds of text work, image work and active requests,
--         then of all that runs (the request, or its choices) id, request and first task
-- Returns {'ok', position} | {'exists', state} | {'full', stage, excess, drained per second}
local request, events, tasks, load, deadlines = unpack(KEYS)
local state = redis.call('HGET', request, 'state')
if state then
  return {'exists', state}
end

local now = now_ms()
local count = (#ARGV - 10) / 3
local active = tonumber(redis.call('HGET', load, 'active') or '0')
for i, stage in ipairs({'text', 'image'}) do
  local reserved = tonumber(redis.call('HGET', load, stage .. ':work') or '0')
  local excess = reserved + count * ARGV[5 + i] - ARGV[7 + i]
  local crowded = stage == 'text' and active + count - ARGV[10] or 0
  -- A request larger than the whole bound is let in when it is alone.
  if active > 0 and (excess > 0 or crowded > 0) then
    local rate = tonumber(redis.call('HGET', load, stage .. ':rate') or '0')
    local at = tonumber(redis.call('HGET', load, stage .. ':at') or now)
    rate = rate * math.exp((at - now) / DRAIN_WINDOW_MS)
    if crowded > 0 then
      excess = math.max(excess, reserved / active * crowded)
    end
    return {'full', stage, tostring(excess), tostring(rate)}
  end
end

redis.call('HINCRBY', load, 'text:work', count * ARGV[6])
redis.call('HINCRBY', load, 'image:work', count * ARGV[7])
redis.call('HINCRBY', load, 'active', count)
redis.call('XADD', events, '*', 'n', 0, 't', 'response.created', 'd', '{}')
local cursor = redis.call('XADD', events, '*', 'n', 1, 't', 'response.queued',
  'd', '{"position":' .. active .. '}')
redis.call('EXPIRE', events, ARGV[5])

local function open(record, document, seq)
  redis.call('HSET', record, 'request', document, 'owner', ARGV[3], 'state', 'queued', 'turn', 0,
    'attempt', 0, 'fence', '', 'seq', seq, 'cursor', cursor,
    'created', now, 'deadline', now + ARGV[4])
  redis.call('EXPIRE', record, ARGV[5])
end

if count > 1 then
  open(request, ARGV[2], 2)
  redis.call('HSET', request, 'choices', count)
end
for i = 1, count do
  local record, at = KEYS[5 + i] or request, 8 + 3 * i
  open(record, ARGV[at + 1], count > 1 and 0 or 2)
  if count > 1 then
    redis.call('HSET', record, 'group', request)
  end
  redis.call('HSET', record, 'text_left', ARGV[6], 'image_left', ARGV[7])
  redis.call('ZADD', deadlines, now + ARGV[4], ARGV[at])
  redis.call('XADD', tasks, '*', 'task', ARGV[at + 2])
end
return {'ok', active}
