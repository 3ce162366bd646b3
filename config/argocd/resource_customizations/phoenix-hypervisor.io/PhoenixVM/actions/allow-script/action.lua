if obj.metadata.annotations ~= nil then
  obj.metadata.annotations["phoenix-hypervisor.io/cancel"] = nil
end
return obj
