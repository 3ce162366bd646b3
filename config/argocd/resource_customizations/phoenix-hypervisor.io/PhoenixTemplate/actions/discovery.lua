local status = obj.status or {}
local annotations = obj.metadata.annotations or {}
local pause = annotations["phoenix-hypervisor.io/paused"] or "false"
local paused = pause ~= "false" and pause ~= ""

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

local function action(name, icon, disabled)
  return {displayName = name, iconClass = "fa fa-fw fa-" .. icon, disabled = disabled}
end

local actions = {}
actions["rebuild"] = action("Build a new revision", "hammer", false)
actions["cancel-script"] = action("Cancel the script that runs", "ban", running() == nil)
actions["allow-script"] = action("Allow the cancelled script", "check", annotations["phoenix-hypervisor.io/cancel"] == nil)
actions["retry"] = action("Try again now", "sync", false)
actions["pause"] = action("Pause", "pause-circle", paused)
actions["resume"] = action("Resume", "play-circle", not paused)
return actions
