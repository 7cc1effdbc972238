# SPDX-License-Identifier: Apache-2.0
"""LiteLLM, which speaks to any provider: one record for a call of its, whatever SDK it goes through."""
