-- What wrk sends, and what it says at the end. The requests come ready-made in a file (see bench/traffic.py);
-- each connection takes the next one. The summary is one line of JSON, so that nobody has to read wrk's prose.

local requests, position = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local all = file:read("*a")
  file:close()
  local from = 1
  while true do
    local first, last = all:find("\n\0\n", from, true)
    if not first then break end
    requests[#requests + 1] = all:sub(from, first - 1)
    from = last + 1
  end
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'WRK {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
