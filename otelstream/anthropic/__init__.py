# SPDX-License-Identifier: Apache-2.0
"""The Anthropic SDK: its grammar, its tools, and where it is attached to."""
