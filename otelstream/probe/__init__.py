# SPDX-License-Identifier: Apache-2.0
"""Whether a gateway keeps a stream whole: the same answers direct and through it, and what became of them."""
