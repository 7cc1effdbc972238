# SPDX-License-Identifier: Apache-2.0
"""What the SDKs of one make share: where to attach, how they read, whose exception it is. No provider is named."""
