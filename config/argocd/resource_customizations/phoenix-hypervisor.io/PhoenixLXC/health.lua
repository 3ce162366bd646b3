-- The same file for PhoenixLXC, PhoenixVM and PhoenixTemplate.

-- So many failures in a row are trouble: the pauses between the attempts add up to minutes by then.
local many_failures = 5
-- The guest was made, and does not do what it is for.
local broken = {ProbeFailed = true, ModelServerFailed = true, RestartBackOff = true, AgentSilent = true}
-- Nothing is known of a guest that was made, because Proxmox says nothing of it.
local hidden = {HypervisorUnreachable = true, NodeOffline = true, Unauthorized = true, CertificateNotTrusted = true}
-- What a person should know of a guest that is Ready.
local findings = {
  "RecreateRequired", "RestartRequired", "AddressConflict", "DriftDetected", "TemplateOutdated", "FeatureOutdated",
  "VolumeNotRetained", "OldRevisionKept", "LargerThanSpec"
}

local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function holds(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end
local function words(condition)
  local message = condition.message or ""
  if message == "" then return condition.reason end
  return condition.reason .. ": " .. message
end
local function health(verdict, message)
  return {status = verdict, message = message}
end

local ready = conditions.Ready
local annotations = obj.metadata.annotations or {}
-- Its own annotation counts before the operator has seen it; that of its hypervisor shows in the condition.
local pause = annotations["phoenix-hypervisor.io/paused"] or "false"
local paused = conditions.Paused ~= nil and conditions.Paused.status == "True"
if paused or (pause ~= "false" and pause ~= "") then
  if ready == nil or ready.status == "True" then return health("Suspended", "paused") end
  -- What the operator says then names the annotation and what waits.
  if ready.reason == "Paused" then return health("Suspended", ready.message) end
  return health("Suspended", "paused at " .. words(ready))
end
if ready == nil then
  return health("Progressing", "not seen by the operator yet: does it work for this namespace?")
end
if status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "the last change was not seen by the operator yet")
end
if holds("Stalled") then return health("Degraded", words(conditions.Stalled)) end

if ready.status == "True" then
  if obj.kind ~= "PhoenixTemplate" and obj.spec.powerState == "Stopped" then
    return health("Suspended", "stopped, as powerState says")
  end
  local told = {}
  for _, finding in ipairs(findings) do
    if holds(finding) then table.insert(told, finding .. ": " .. (conditions[finding].message or "")) end
  end
  local tests = conditions.TestsPassed
  if tests ~= nil and tests.status == "False" then table.insert(told, words(tests)) end
  return health("Healthy", table.concat(told, "; "))
end

local made = status.createSent == true or status.adopted == true
if broken[ready.reason] or (hidden[ready.reason] and made) then return health("Degraded", words(ready)) end

local failures, err = status.failures or 0, status.lastError
for _, step in ipairs(status.failing or {}) do
  if step.failures > failures then failures, err = step.failures, step.error end
end
if failures >= many_failures then
  return health("Degraded", "failed " .. failures .. " times, and is tried again: " .. (err or words(ready)))
end
return health("Progressing", words(ready))
