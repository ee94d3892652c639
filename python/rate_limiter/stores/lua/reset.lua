-- reset.lua -- delete buckets and windows. See bucket.lua and window.lua.

for i = 1, #KEYS do
  call('DEL', key_of(i))
end
return {1}
