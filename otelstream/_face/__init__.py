# SPDX-License-Identifier: Apache-2.0
"""The public surface: instrumentor, views, actions and decorators."""
