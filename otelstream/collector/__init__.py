# SPDX-License-Identifier: Apache-2.0
"""The Collector configurations that the wheel carries."""
