# SPDX-License-Identifier: Apache-2.0
"""The Google Gen AI SDK: the grammar of Gemini's answers, its tools, and where it is attached to."""
