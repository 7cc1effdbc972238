# SPDX-License-Identifier: Apache-2.0
"""The objectives file, and the rules, alerts and runbook made from it."""
