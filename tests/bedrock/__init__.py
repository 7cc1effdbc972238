# SPDX-License-Identifier: Apache-2.0
"""Bedrock through botocore and aiobotocore."""
