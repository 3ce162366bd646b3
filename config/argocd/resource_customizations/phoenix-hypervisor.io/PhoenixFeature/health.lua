-- A feature has no life of its own: what is wrong with it for a guest, the guest says.
local status = obj.status or {}
local ready
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" then ready = condition end
end
if ready == nil then
  return {status = "Progressing", message = "not seen by the operator yet: does it work for this namespace?"}
end
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the last change was not seen by the operator yet"}
end
if ready.status == "True" then
  return {status = "Healthy", message = ready.message}
end
return {status = "Degraded", message = ready.reason .. ": " .. (ready.message or "")}
