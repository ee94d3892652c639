-- reset.lua -- delete buckets and windows, and blocks. See bucket.lua and window.lua.

for i = 1, #KEYS do
  call('DEL', KEYS[i], key_of(i))
end
return {1}
