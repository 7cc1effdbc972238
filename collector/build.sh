#!/bin/sh
# Builds the Collector of builder.yaml: ten minutes of CPU time the first time. It is kept outside the checkout by version
# and manifest, so that every other checkout has it at once, and linked into .tools/bin.
set -eu
cd "$(dirname "$0")"
version=0.158.0
kept="${XDG_CACHE_HOME:-${HOME:?}/.cache}/otelstream/collector-$version-$(cksum < builder.yaml | cut -d ' ' -f 1)"
mkdir -p ../.tools/bin
if [ ! -x "$kept/otelstream-collector" ]; then
  if ! command -v go >/dev/null 2>&1; then
    echo "collector/build.sh: Go is missing; install Go 1.25 or later (https://go.dev/dl/), or set OTELSTREAM_COLLECTOR" \
      "to a Collector that has the components of collector/builder.yaml" >&2
    exit 1
  fi
  mkdir -p "$kept"
  GOBIN="$kept" go install "go.opentelemetry.io/collector/cmd/builder@v$version" || {
    echo "collector/build.sh: could not fetch the Collector builder; is a Go module proxy reachable? (go env GOPROXY)" >&2
    exit 1
  }
  "$kept/builder" --config builder.yaml || {
    echo "collector/build.sh: the build failed; the lines above say which module or why" >&2
    exit 1
  }
  # Moved, not written, into its place: half a file is never taken for a Collector.
  cp ../.tools/collector/otelstream-collector "$kept/otelstream-collector.$$"
  mv "$kept/otelstream-collector.$$" "$kept/otelstream-collector"
fi
ln -sf "$kept/otelstream-collector" ../.tools/bin/otelstream-collector
