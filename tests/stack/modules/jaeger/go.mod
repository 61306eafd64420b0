// Builds Jaeger's own program as a tool. Its checksums are those of the verified jaeger module itself (build.py).
module stack/jaeger

go 1.26

tool github.com/jaegertracing/jaeger/cmd/jaeger

require github.com/jaegertracing/jaeger v1.76.0

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
