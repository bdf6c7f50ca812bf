-- Move a task that is given up to the dead letters.
-- KEYS[1] tasks     stream  that the task came from
-- KEYS[2] dead      stream  of dead letters
-- ARGV    group, entry id, reason, deliveries, most dead letters kept
-- Returns {'ok'} | {'gone'}: the task was acknowledged before
local tasks, dead = unpack(KEYS)
if redis.call('XACK', tasks, ARGV[1], ARGV[2]) == 0 then
  return {'gone'}
end
local entry = redis.call('XRANGE', tasks, ARGV[2], ARGV[2])[1]
local task = ''
if entry then
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'task' then
      task = entry[2][i + 1]
    end
  end
end
redis.call('XADD', dead, 'MAXLEN', '~', ARGV[5], '*', 'stream', tasks, 'entry', ARGV[2],
  'reason', ARGV[3], 'deliveries', ARGV[4], 'task', task)
return {'ok'}
