# SPDX-License-Identifier: Apache-2.0
"""Every way of reading a stream crossed with every way it can end, each judged by what was on the wire."""
