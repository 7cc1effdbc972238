# SPDX-License-Identifier: Apache-2.0
"""Turn one ended record into OpenTelemetry: a span, events, metrics."""
