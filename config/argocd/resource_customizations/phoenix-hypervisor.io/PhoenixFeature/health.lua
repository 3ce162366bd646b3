-- A feature has no life of its own: what is wrong with it for a guest, the guest says.
local status = obj.status or {}
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" and condition.status == "True" and status.observedGeneration == obj.metadata.generation then
    return {status = "Healthy", message = condition.message}
  end
end
return {status = "Progressing", message = "not seen by the operator yet: does it work for this namespace?"}
