# SPDX-License-Identifier: Apache-2.0
"""What leaves: spans, their events, log records and metrics."""
