-- The same file for PhoenixLXC and PhoenixVM.

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
local stopped = obj.spec.powerState == "Stopped"
actions["restart"] = action("Restart", "redo", stopped)
actions["start"] = action("Start", "play", not stopped)
actions["stop"] = action("Stop", "stop", stopped)
actions["run-tests"] = action("Run the tests", "vial", obj.spec.tests == nil or stopped)
actions["cancel-script"] = action("Cancel the script that runs", "ban", running() == nil)
actions["allow-script"] = action("Allow the cancelled script", "check", annotations["phoenix-hypervisor.io/cancel"] == nil)
actions["retry"] = action("Try again now", "sync", false)
actions["pause"] = action("Pause", "pause-circle", paused)
actions["resume"] = action("Resume", "play-circle", not paused)
return actions
