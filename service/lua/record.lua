-- Shared by all scripts (put in front of each): the record of a request and its events.
-- Fields of the record (hash `mmi:{p}:request:<id>`):
--   request, owner    what was asked, never changed; whose it is
--   state             queued | running | completed | incomplete | failed | cancelled
--   turn, attempt     number of the current turn; how often a turn of this request was begun
--   fence             names the attempt that may write; empty while nobody may
--   committed         fence of the last commit, so that repeating it is harmless
--   seq               number of events so far, which is the next event's sequence number
--   cursor            entry id of the last event before the current turn
--   created, deadline, finished   milliseconds, clock of Redis
--   text_left, image_left         reserved work that is still to be given back
--   part:<i>, usage, open, streamed, progress, previews   set by workers, opaque here

local TERMINAL = {completed = true, incomplete = true, failed = true, cancelled = true}
local DRAIN_WINDOW_MS = 60000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Append events (triples of type, data, tokens from ARGV[first] on) and wake the readers.
-- `base` is the number that the writer gave to its first event; those already there are skipped.
local function append(request, events, base, count, first)
  local seq = tonumber(redis.call('HGET', request, 'seq') or '0')
  local appended = {}
  local id = nil
  for i = seq - base, count - 1 do
    local at = first + 3 * i
    local entry = {'n', seq, 't', ARGV[at], 'd', ARGV[at + 1]}
    if ARGV[at + 2] ~= '' then
      entry[7], entry[8] = 'k', ARGV[at + 2]
    end
    id = redis.call('XADD', events, '*', unpack(entry))
    appended[#appended + 1] = {id, seq, ARGV[at], ARGV[at + 1]}
    seq = seq + 1
  end
  if id then
    redis.call('HSET', request, 'seq', seq)
    redis.call('PUBLISH', events, cjson.encode(appended))
  end
  return id, seq
end

local function set_fields(request, first)
  if ARGV[first] then
    redis.call('HSET', request, unpack(ARGV, first))
  end
end

-- Give back up to `work` units of what the request had reserved of a stage.
local function give_back(request, load, stage, work)
  local left = tonumber(redis.call('HGET', request, stage .. '_left') or '0')
  work = math.min(work, left)
  if work <= 0 then
    return
  end
  redis.call('HSET', request, stage .. '_left', left - work)
  redis.call('HINCRBY', load, stage .. ':work', -work)
  local now = now_ms()
  local rate = tonumber(redis.call('HGET', load, stage .. ':rate') or '0')
  local at = tonumber(redis.call('HGET', load, stage .. ':at') or now)
  rate = rate * math.exp((at - now) / DRAIN_WINDOW_MS) + work * 1000 / DRAIN_WINDOW_MS
  redis.call('HSET', load, stage .. ':rate', tostring(rate), stage .. ':at', now)
end

-- End the request: free what it holds, let its record and events expire.
local function finish(request, events, load, deadlines, request_id, state, request_ttl, event_ttl)
  redis.call('HSET', request, 'state', state, 'fence', '', 'finished', now_ms())
  redis.call('ZREM', deadlines, request_id)
  redis.call('HINCRBY', load, 'active', -1)
  give_back(request, load, 'text', math.huge)
  give_back(request, load, 'image', math.huge)
  redis.call('EXPIRE', request, request_ttl)
  redis.call('EXPIRE', events, event_ttl)
end

