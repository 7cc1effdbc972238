# SPDX-License-Identifier: Apache-2.0
"""Which run of a tool serves which call of the model."""
