# SPDX-License-Identifier: Apache-2.0
"""What one question of a user sets off, found from any context of the process."""
