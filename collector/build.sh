#!/bin/sh
# Builds the Collector of builder.yaml into .tools/bin: about 8 minutes the first time, 2 with a warm Go cache.
set -eu
cd "$(dirname "$0")"
version=0.158.0
bin=../.tools/bin
if ! command -v go >/dev/null 2>&1; then
  echo "collector/build.sh: Go is missing; install Go 1.25 or later (https://go.dev/dl/), or set OTELSTREAM_COLLECTOR" \
    "to a Collector that has the components of collector/builder.yaml" >&2
  exit 1
fi
mkdir -p "$bin"
# The stamp makes a second call free, and a changed manifest or version build anew.
stamp="$version $(cksum < builder.yaml)"
if [ -x "$bin/otelstream-collector" ] && [ "$(cat "$bin/otelstream-collector.built" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
GOBIN="$(cd "$bin" && pwd)" go install "go.opentelemetry.io/collector/cmd/builder@v$version" || {
  echo "collector/build.sh: could not fetch the Collector builder; is a Go module proxy reachable? (go env GOPROXY)" >&2
  exit 1
}
"$bin/builder" --config builder.yaml || {
  echo "collector/build.sh: the build failed; the lines above say which module or why" >&2
  exit 1
}
cp ../.tools/collector/otelstream-collector "$bin/otelstream-collector.new"
mv "$bin/otelstream-collector.new" "$bin/otelstream-collector"
echo "$stamp" > "$bin/otelstream-collector.built"
