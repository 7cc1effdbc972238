# SPDX-License-Identifier: Apache-2.0
"""The process: its open streams, each ended once, and the way to a safe emission."""
