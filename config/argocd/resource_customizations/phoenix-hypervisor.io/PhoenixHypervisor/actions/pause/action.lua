if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["phoenix-hypervisor.io/paused"] = "true"
return obj
