"""Stores chunks through LMCache and kvtier until it is killed. Writes the number of each batch that was queued."""

import sys

import harness

BATCH = 8


def main(path):
    with harness.LMCache(path) as lmcache:
        for first in range(0, 100_000, BATCH):
            numbers = range(first, first + BATCH)
            lmcache.put(lmcache.keys(*numbers), numbers)
            # The first batch is stored for sure, the others may be anywhere on their way.
            if first == 0:
                lmcache.settle()
            print(first // BATCH, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
