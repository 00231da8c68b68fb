"""`python -m tabagent.worker BACKEND BEAT_SECONDS [debug]`, started by the gateway."""

import sys

from tabagent.worker.main import run

if __name__ == "__main__":
    run(sys.argv[1], float(sys.argv[2]), debug="debug" in sys.argv[3:])
