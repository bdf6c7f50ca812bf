-- Accept a request, or refuse it because too much work is reserved. Repeating it is harmless.
-- KEYS[1] request   hash    the new record
-- KEYS[2] events    stream  gets response.created and response.queued
-- KEYS[3] tasks     stream  gets the first task
-- KEYS[4] load      hash    reserved work
-- KEYS[5] deadlines zset    gets the request
-- ARGV    request id, request, owner, first task, deadline in ms, time to live in s,
--         text work, image work, bounds of text work, image work and active requests
-- Returns {'ok', position} | {'exists', state} | {'full', stage, excess, drained per second}
local request, events, tasks, load, deadlines = unpack(KEYS)
local state = redis.call('HGET', request, 'state')
if state then
  return {'exists', state}
end

local now = now_ms()
local active = tonumber(redis.call('HGET', load, 'active') or '0')
for i, stage in ipairs({'text', 'image'}) do
  local reserved = tonumber(redis.call('HGET', load, stage .. ':work') or '0')
  local excess = reserved + ARGV[6 + i] - ARGV[8 + i]
  local crowded = stage == 'text' and active + 1 - ARGV[11] or 0
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

redis.call('HINCRBY', load, 'text:work', ARGV[7])
redis.call('HINCRBY', load, 'image:work', ARGV[8])
redis.call('HINCRBY', load, 'active', 1)
redis.call('HSET', request, 'request', ARGV[2], 'owner', ARGV[3], 'state', 'queued', 'turn', 0,
  'attempt', 0, 'fence', '', 'seq', 2, 'created', now, 'deadline', now + ARGV[5],
  'text_left', ARGV[7], 'image_left', ARGV[8])
redis.call('XADD', events, '*', 'n', 0, 't', 'response.created', 'd', '{}')
local cursor = redis.call('XADD', events, '*', 'n', 1, 't', 'response.queued',
  'd', '{"position":' .. active .. '}')
redis.call('HSET', request, 'cursor', cursor)
redis.call('EXPIRE', request, ARGV[6])
redis.call('EXPIRE', events, ARGV[6])
redis.call('ZADD', deadlines, now + ARGV[5], ARGV[1])
redis.call('XADD', tasks, '*', 'task', ARGV[4])
return {'ok', active}
