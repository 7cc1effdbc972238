# SPDX-License-Identifier: Apache-2.0
"""Tell the truth about streamed LLM answers, in OpenTelemetry."""

from __future__ import annotations
