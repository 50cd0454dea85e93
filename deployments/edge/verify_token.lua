-- Finds out who sends a token that is not in the map of tokens: asks the edge's process on a Unix socket, and keeps the
-- answer in the map until the token expires. The map's file names a generation; with a new one, none is kept.

local file_name, socket_path = ...

-- Of one HAProxy process.
local MAX_TOKENS, MAX_REFUSED, MAX_CONCURRENT = 100000, 10000, 32
local MAX_BYTES = 8192
local TIMEOUT_S, WAIT_MS, POLL_MS, REFUSED_S = 6, 2000, 20, 2
local BUSY = "too many tokens are being verified; try again shortly"
local AWAY = "tokens cannot be verified now; try again shortly, or send an API key"

local function read_generation()
  local file = io.open(file_name)
  if not file then
    return nil
  end
  local content = file:read("a")
  file:close()
  return content:match("^# (%S+)\n")
end

local generation = read_generation()
-- Digests by the second in which they expire. HAProxy may go on with another request or task between any two
-- instructions here, so no table is traversed that another one may add to.
local expiring, count, next_s = {}, 0, core.now().sec
-- What was answered in the last seconds to tokens that are not valid, by digest: of a caller that sends one again and
-- again, few requests are verified.
local refused, refused_before, refused_count, turn_s = {}, {}, 0, 0
-- When each verification began. A caller that leaves takes its verification along, without a word.
local ongoing = {}

local function keep(digest, answered_generation, until_s, caller)
  if count >= MAX_TOKENS then
    return
  end
  expiring[until_s] = expiring[until_s] or {}
  table.insert(expiring[until_s], digest)
  count = count + 1
  core.set_map(file_name, digest, caller)
  -- Last: it may have been verified with a key that was withdrawn meanwhile, or have expired.
  if answered_generation ~= generation or until_s < next_s then
    core.del_map(file_name, digest)
  end
end

local function drop(digests)
  for _, digest in ipairs(digests) do
    core.del_map(file_name, digest)
  end
  count = count - #digests
end

core.register_task(function()
  while true do
    core.msleep(200)
    local now_s = core.now().sec
    while next_s <= now_s do
      if expiring[next_s] then
        drop(expiring[next_s])
        expiring[next_s] = nil
      end
      next_s = next_s + 1
    end
    local new_generation = read_generation()
    if new_generation and new_generation ~= generation then
      local before = expiring
      generation, expiring = new_generation, {}
      for _, digests in pairs(before) do
        drop(digests)
      end
    end
    if now_s - turn_s >= REFUSED_S then
      refused, refused_before, refused_count, turn_s = {}, refused, 0, now_s
    end
  end
end)

-- Returns the number of a free place; nil where there is none in time.
local function wait_for_place()
  for _ = 1, WAIT_MS / POLL_MS do
    local now_s = core.now().sec
    for place = 1, MAX_CONCURRENT do
      if not ongoing[place] or now_s - ongoing[place] > TIMEOUT_S then
        ongoing[place] = now_s
        return place
      end
    end
    core.msleep(POLL_MS)
  end
end

-- Returns the status and the body of the answer; nil where there is none in time.
local function ask(token)
  local socket = core.tcp()
  socket:settimeout(TIMEOUT_S)
  if not socket:connect("unix@" .. socket_path) then
    return nil
  end
  socket:send("POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: " .. #token .. "\r\n\r\n" .. token)
  local answer = socket:receive("*a")
  socket:close()
  if not answer then
    return nil
  end
  return answer:match("^HTTP/1%.1 (%d%d%d) .-\r\n\r\n(.*)$")
end

local function refuse(txn, status, problem, caller)
  txn:set_var("txn.token_status", tonumber(status))
  txn:set_var("txn.token_problem", problem)
  if caller then
    txn:set_var("txn.caller", caller)
  end
end

core.register_action("verify_token", {"http-req"}, function(txn)
  local token, digest = txn:get_var("txn.key"), txn:get_var("txn.digest")
  if #token > MAX_BYTES then
    return refuse(txn, 401, "the token has more than " .. MAX_BYTES .. " bytes, the limit")
  end
  local last = refused[digest] or refused_before[digest]
  if last then
    return refuse(txn, last.status, last.problem, last.caller)
  end
  local place = wait_for_place()
  if not place then
    return refuse(txn, 503, BUSY)
  end
  local called, status, body = pcall(ask, token)
  ongoing[place] = nil
  local answered_generation, until_s, caller = (body or ""):match("^(%d+) (%d+) (%S+)$")
  if called and status == "200" and caller then
    txn:set_var("txn.identity", caller)
    keep(digest, answered_generation, tonumber(until_s), caller)
  elseif called and (status == "401" or status == "403") then
    local problem = body
    if status == "403" then
      caller, problem = body:match("^(%S+) (.*)$")
    end
    refuse(txn, status, problem, caller)
    txn:set_var("txn.token_is_refused", true)
    if refused_count < MAX_REFUSED then
      refused[digest] = {status = status, problem = problem, caller = caller}
      refused_count = refused_count + 1
    end
  else
    refuse(txn, 503, status == "503" and body or AWAY)
  end
end)
