if obj.metadata.annotations ~= nil then
  obj.metadata.annotations["phoenix-hypervisor.io/paused"] = nil
end
return obj
