# SPDX-License-Identifier: Apache-2.0
"""The OpenAI SDK: its two grammars, its tools, and where it is attached to."""
