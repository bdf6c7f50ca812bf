-- Heartbeat: renew the leases of a worker's tasks, and find those that it has lost. A worker that
-- was stopped for longer than its lease must not reclaim a task from its new holder.
-- KEYS[1] tasks     stream  that the tasks came from
-- KEYS[n] request   hash    the record of task n - 1
-- ARGV    group, consumer, then per task entry id, fence ('' before it has begun)
-- Returns per task 1 (held) or 0 (lost)
local tasks = KEYS[1]
local held = {}
for i = 2, #KEYS do
  local id, fence = ARGV[2 * i - 1], ARGV[2 * i]
  local pending = redis.call('XPENDING', tasks, ARGV[1], id, id, 1)[1]
  local mine = pending and pending[2] == ARGV[2]
  if mine and fence ~= '' then
    mine = redis.call('HGET', KEYS[i], 'fence') == fence
  end
  if mine then
    redis.call('XCLAIM', tasks, ARGV[1], ARGV[2], 0, id, 'JUSTID')
  end
  held[i - 1] = mine and 1 or 0
end
return held
