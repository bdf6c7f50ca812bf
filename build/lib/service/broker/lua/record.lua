-- Shared by all scripts (put before each): the record of a request and its events.
-- Fields of the record (hash `mmi:{p}:request:<id>`):
--   request, owner    the request as accepted; its owner
--   state             queued | running | completed | incomplete | failed | cancelled
--   turn, attempt     number of the current turn; number of attempts at turns of this request
--   fence             names the attempt that may write; empty while none may
--   committed         fence of the last commit, so that repeating the commit is harmless
--   seq               number of events so far, and so the next event's sequence number
--   cursor            entry id of the last event before the current turn
--   created, deadline, finished   milliseconds, clock of Redis
--   text_left, image_left         reserved work that is not yet released
--   uncounted         times that this turn was nacked without counting the delivery as a try
--   part:<i>, usage, open, streamed, progress, previews   set by workers, opaque here
-- A request for several answers is a group. It has no turns; its choices have. The record of a
-- choice has the same form, with `group`, the key of the group's record, in place of `request`.
-- The group's record also has
--   choices           their number
--   seq               the number of events of all choices, which share one stream
--   ended:<state>     number of choices that ended in this state
--   first:reason, first:error   of the first choice that ended with one
--   bill:<name>       usage of all choices that have ended

local TERMINAL = {completed = true, incomplete = true, failed = true, cancelled = true}
local DRAIN_WINDOW_MS = 60000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Add the usage of a choice to that of its group.
local function bill(group, usage)
  for name, amount in pairs(cjson.decode(usage)) do
    if name ~= 'choice' then
      redis.call('HINCRBY', group, 'bill:' .. name, amount)
    end
  end
end

-- Append events (triples of type, data, token ids from ARGV[first] on) and publish them to readers.
-- `base` is the number that the writer gave to its first event; those stored before are skipped.
-- Readers see the writer's numbers, or those of its group.
local function append(request, events, base, count, first)
  local record = redis.call('HMGET', request, 'seq', 'group')
  local seq, group = tonumber(record[1] or '0'), record[2]
  local appended = {}
  local id = nil
  for i = seq - base, count - 1 do
    local at = first + 3 * i
    local number = seq
    if group then
      number = redis.call('HINCRBY', group, 'seq', 1) - 1
      if ARGV[at] == 'usage' then
        bill(group, ARGV[at + 1])
      end
    end
    local entry = {'n', number, 't', ARGV[at], 'd', ARGV[at + 1]}
    if ARGV[at + 2] ~= '' then
      entry[7], entry[8] = 'k', ARGV[at + 2]
    end
    id = redis.call('XADD', events, '*', unpack(entry))
    appended[#appended + 1] = {id, number, ARGV[at], ARGV[at + 1]}
    seq = seq + 1
  end
  if id then
    redis.call('HSET', request, 'seq', seq)
    redis.call('PUBLISH', events, cjson.encode(appended))
  end
  return id, seq
end

-- Set the fields (name, value, ...) that follow in ARGV from `first` on.
local function set_fields(request, first)
  if ARGV[first] then
    redis.call('HSET', request, unpack(ARGV, first))
  end
end

-- Work per second that a stage has finished in the last minute or so (exponential window).
local function drain_rate(load, stage, now)
  local rate = tonumber(redis.call('HGET', load, stage .. ':rate') or '0')
  local at = tonumber(redis.call('HGET', load, stage .. ':at') or now)
  return rate * math.exp((at - now) / DRAIN_WINDOW_MS)
end

-- Release up to `work` units of what the request has reserved of a stage.
local function release_work(request, load, stage, work)
  local left = tonumber(redis.call('HGET', request, stage .. '_left') or '0')
  work = math.min(work, left)
  if work <= 0 then
    return
  end
  redis.call('HSET', request, stage .. '_left', left - work)
  redis.call('HINCRBY', load, stage .. ':work', -work)
  local now = now_ms()
  local rate = drain_rate(load, stage, now) + work * 1000 / DRAIN_WINDOW_MS
  redis.call('HSET', load, stage .. ':rate', tostring(rate), stage .. ':at', now)
end

-- The last events of a group: its usage, and how it ended. Also stores its reason or error.
local function last_events(group, state)
  local usage, fields = {}, redis.call('HGETALL', group)
  for i = 1, #fields, 2 do
    local name = fields[i]:match('^bill:(.*)$')
    if name then
      usage[name] = tonumber(fields[i + 1])
    end
  end
  local events = {{'usage', cjson.encode(usage)}}
  local first = redis.call('HMGET', group, 'first:reason', 'first:error')
  local data = '{}'
  if state == 'incomplete' then
    local reason = first[1] or 'choice_failed'
    redis.call('HSET', group, 'reason', reason)
    data = cjson.encode({reason = reason})
  elseif state == 'failed' then
    redis.call('HSET', group, 'error', first[2])
    local failure = cjson.decode(first[2])
    failure.version, failure.status = nil, nil  -- clients do not see these
    data = cjson.encode({error = failure})
    events[2] = {'error', data}
  end
  events[#events + 1] = {'response.' .. state, data}
  return events
end

-- Count a choice as ended. The last one ends its group: as cancelled if any choice was, as
-- completed or failed if all were, else as incomplete.
local function end_choice(group, request, events, state, request_ttl, event_ttl)
  local outcome = redis.call('HMGET', request, 'reason', 'error')
  for i, name in ipairs({'reason', 'error'}) do
    if outcome[i] then
      redis.call('HSETNX', group, 'first:' .. name, outcome[i])
    end
  end
  redis.call('HINCRBY', group, 'ended:' .. state, 1)
  local choices = tonumber(redis.call('HGET', group, 'choices'))
  local ended, total = {}, 0
  for name in pairs(TERMINAL) do
    ended[name] = tonumber(redis.call('HGET', group, 'ended:' .. name) or '0')
    total = total + ended[name]
  end
  if total < choices then
    return
  end
  local whole = 'incomplete'
  if ended.cancelled > 0 then
    whole = 'cancelled'
  elseif ended.completed == choices or ended.failed == choices then
    whole = state
  end
  local appended = {}
  for _, event in ipairs(last_events(group, whole)) do
    local number = redis.call('HINCRBY', group, 'seq', 1) - 1
    local id = redis.call('XADD', events, '*', 'n', number, 't', event[1], 'd', event[2])
    appended[#appended + 1] = {id, number, event[1], event[2]}
  end
  redis.call('PUBLISH', events, cjson.encode(appended))
  redis.call('HSET', group, 'state', whole, 'finished', now_ms())
  redis.call('EXPIRE', group, request_ttl)
  redis.call('EXPIRE', events, event_ttl)
end

-- End the request: release its work, and let its record and events expire.
local function finish(request, events, load, deadlines, request_id, state, request_ttl, event_ttl)
  redis.call('HSET', request, 'state', state, 'fence', '', 'finished', now_ms())
  redis.call('ZREM', deadlines, request_id)
  redis.call('HINCRBY', load, 'active', -1)
  release_work(request, load, 'text', math.huge)
  release_work(request, load, 'image', math.huge)
  redis.call('EXPIRE', request, request_ttl)
  local group = redis.call('HGET', request, 'group')
  if group then
    end_choice(group, request, events, state, request_ttl, event_ttl)
  else
    redis.call('EXPIRE', events, event_ttl)
  end
end

