local status = obj.status or {}
-- The script that runs in the guest now.
local function running()
  local scripts = {status.application or {}, status.vllm or {}}
  for _, list in ipairs({status.features or {}, status.tests or {}}) do
    for _, script in ipairs(list) do table.insert(scripts, script) end
  end
  for _, script in ipairs(scripts) do
    if script.state == "Running" and script.hash ~= nil then return script end
  end
end

local script = running()
if script == nil then
  error("no script runs in the guest")
end
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["phoenix-hypervisor.io/cancel"] = script.hash
return obj
