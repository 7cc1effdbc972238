# SPDX-License-Identifier: Apache-2.0
"""`otelstream doctor`: facts from this environment and from the processes of a program, and what is wrong with them."""
