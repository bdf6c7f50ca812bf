-- Delete the entries of a task stream that are delivered and acknowledged, and no others.
-- KEYS[1] tasks     stream
-- ARGV    group, idle time in ms after which a consumer without tasks is deleted
-- Returns {entries deleted, consumers deleted}
local tasks, group = KEYS[1], ARGV[1]
local floor = nil
for _, info in ipairs(redis.call('XINFO', 'GROUPS', tasks)) do
  local fields = {}
  for i = 1, #info, 2 do
    fields[info[i]] = info[i + 1]
  end
  if fields.name == group then
    local oldest = redis.call('XPENDING', tasks, group)[2]
    floor = oldest or fields['last-delivered-id']
  end
end
local num_entries = floor and redis.call('XTRIM', tasks, 'MINID', '=', floor) or 0
local num_consumers = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', tasks, group)) do
  local fields = {}
  for i = 1, #info, 2 do
    fields[info[i]] = info[i + 1]
  end
  if fields.pending == 0 and fields.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', tasks, group, fields.name)
    num_consumers = num_consumers + 1
  end
end
return {num_entries, num_consumers}
