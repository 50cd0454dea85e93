-- Closes what a replica has not answered once two checks have had no answer: it is stopped, or its node is gone, and the
-- kernel ends no connection of it. HAProxy then sends the requests elsewhere. Where a replica's process has ended, its
-- connections have, too; and one that is drained is not checked.
-- https://www.arpalert.org/src/haproxy-lua-api/2.8/index.html#core.event_sub

-- Over `timeout connect`. A request that still waits for a connection would be lost, and goes elsewhere by itself.
local CONNECT_MS = 2100

core.event_sub({"SERVER_DOWN"}, function(event, data)
  local server = data.reference
  -- A star before it says that the next check is under way.
  local reason = server and server:get_stats()["check_status"]:gsub("^%* ", "")
  if reason == "L7TOUT" then
    server:shut_sess()
  elseif reason == "L4TOUT" then
    core.register_task(function()
      core.msleep(CONNECT_MS)
      if server:get_stats()["status"] == "DOWN" then
        server:shut_sess()
      end
    end)
  end
end)
