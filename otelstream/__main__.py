# SPDX-License-Identifier: Apache-2.0
import sys

from otelstream.cli import main

sys.exit(main())
