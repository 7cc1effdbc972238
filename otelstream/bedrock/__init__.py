# SPDX-License-Identifier: Apache-2.0
"""Amazon Bedrock through botocore and aiobotocore: its grammars, and where their clients are attached to."""
