# SPDX-License-Identifier: Apache-2.0
"""The core: what is known of any provider's stream, and what leaves the process. It knows no provider."""
