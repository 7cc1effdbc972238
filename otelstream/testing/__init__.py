# SPDX-License-Identifier: Apache-2.0
"""What tests of streaming code need: a local provider, its faults, and a recorder of what otelstream said."""
