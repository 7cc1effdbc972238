# SPDX-License-Identifier: Apache-2.0
"""The ways a stream can end, played by the real SDK against the provider simulator."""
