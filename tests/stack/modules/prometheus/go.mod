// Builds Prometheus' own programs as tools: v0.316.0 of the module is release 3.16.0.
module stack/prometheus

go 1.26

tool (
	github.com/prometheus/prometheus/cmd/prometheus
	github.com/prometheus/prometheus/cmd/promtool
)

require github.com/prometheus/prometheus v0.316.0
