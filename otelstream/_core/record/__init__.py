# SPDX-License-Identifier: Apache-2.0
"""One stream and what it is made of; imports nothing of ours but the names."""
