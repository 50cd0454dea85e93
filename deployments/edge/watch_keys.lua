-- Keeps the map of keys as its file says. The edge changes it by the runtime API too, at once, but not in a process that
-- a reload has replaced: its admin socket is closed, and its connections may have requests left.

local file_name = ...

local function read_file()
  local file = io.open(file_name)
  if not file then
    return nil
  end
  local content = file:read("a")
  file:close()
  return content
end

local function parse_keys(content)
  local keys = {}
  for digest, caller in content:gmatch("(%x+) (%S+)\n") do
    keys[digest] = caller
  end
  return keys
end

local content = read_file() or ""
local keys = parse_keys(content)

core.register_task(function()
  while true do
    core.msleep(300)
    local new_content = read_file()
    if new_content and new_content ~= content then
      local new_keys = parse_keys(new_content)
      for digest in pairs(keys) do
        if not new_keys[digest] then
          core.del_map(file_name, digest)
        end
      end
      for digest, caller in pairs(new_keys) do
        if keys[digest] ~= caller then
          core.set_map(file_name, digest, caller)
        end
      end
      content, keys = new_content, new_keys
    end
  end
end)
