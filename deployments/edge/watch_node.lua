-- Ends HAProxy when its node's Ray has ended, however that came about: it must not hold the ports of a cluster that is
-- gone. While Ray runs, it goes on without the process that started it, until that one's successor takes it over.

local pid, start_time = os.getenv("SHOAL_RAYLET_PID"), os.getenv("SHOAL_RAYLET_START_TIME")

local function is_alive()
  local file = io.open("/proc/" .. pid .. "/stat")
  if not file then
    return false
  end
  local content = file:read("a")
  file:close()
  -- The name, in parentheses, may hold spaces; the state follows it, the start time is the 20th field from there.
  local fields = {}
  for field in content:match(".*%) (.*)"):gmatch("%S+") do
    fields[#fields + 1] = field
  end
  return fields[1] ~= "Z" and fields[20] == start_time
end

core.register_task(function()
  while is_alive() do
    core.msleep(1000)
  end
  os.exit(0)
end)
