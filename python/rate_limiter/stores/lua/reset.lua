-- reset.lua -- delete buckets and windows. See bucket.lua and window.lua.

for i = 1, #KEYS do
  local key = key_of(i)
  if not key then
    return no_bucket(i)
  end
  call('DEL', key)
end
return {1}
