"""restarting.py COMMAND...: starts the command again whenever it has ended, but not after a stop.

What a supervisor does for the pid that it has started. A line tells of each end.
"""

import signal
import subprocess
import sys
import time

while True:
    status = subprocess.call(sys.argv[1:])
    sys.stdout.write(f"ended with {status}\n")  # at once: others write to the same pipe
    sys.stdout.flush()
    if status in (0, -signal.SIGTERM):
        break
    time.sleep(0.2)
