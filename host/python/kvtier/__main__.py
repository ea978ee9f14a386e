"""``python -m kvtier``: the ``kvtier`` command."""

import signal
import sys

from kvtier._kvtier import main

# The command ends at once, as any command does.
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(main(sys.argv[1:]))
