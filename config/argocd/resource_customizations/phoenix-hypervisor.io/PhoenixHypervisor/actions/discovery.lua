local pause = (obj.metadata.annotations or {})["phoenix-hypervisor.io/paused"] or "false"
local paused = pause ~= "false" and pause ~= ""

local function action(name, icon, disabled)
  return {displayName = name, iconClass = "fa fa-fw fa-" .. icon, disabled = disabled}
end

local actions = {}
actions["pause"] = action("Pause all of its objects", "pause-circle", paused)
actions["resume"] = action("Resume", "play-circle", not paused)
return actions
