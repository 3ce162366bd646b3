local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function words(condition)
  return condition.reason .. ": " .. (condition.message or "")
end

local ready, stalled = conditions.Ready, conditions.Stalled
if ready == nil then
  return {status = "Progressing", message = "not seen by the operator yet: does it work for this namespace?"}
end
local pause = (obj.metadata.annotations or {})["phoenix-hypervisor.io/paused"] or "false"
if pause ~= "false" and pause ~= "" then
  return {status = "Suspended", message = "nothing is done for the objects of this hypervisor"}
end
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the last change was not seen by the operator yet"}
end
if stalled ~= nil and stalled.status == "True" then
  return {status = "Degraded", message = words(stalled)}
end
if ready.status == "True" then
  return {status = "Healthy", message = ready.message}
end
-- A Secret that it names may come with the same sync.
if status.missingSince ~= nil then
  return {status = "Progressing", message = words(ready)}
end
return {status = "Degraded", message = words(ready)}
