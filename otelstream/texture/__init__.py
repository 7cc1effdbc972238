# SPDX-License-Identifier: Apache-2.0
"""The texture of a model: how its answers came, as distributions without texts, and what changed."""
