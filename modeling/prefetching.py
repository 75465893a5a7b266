"""Reads the next batch in a thread of its own while the model works on the one before."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

_END = object()


class Prefetched:
    """
    The items of an iterable, in order, each read while the consumer still works on the one before.

    Args:
        iterable: Anything that can be iterated, a `torch.utils.data.DataLoader` for one. What it raises is raised
            where its next item would have come.
        once (`bool`, *optional*, defaults to `False`):
            Whether what is read cannot be read again: then each `iter` goes on where the last one was.
    """

    def __init__(self, iterable, once: bool = False):
        self.iterable = iterable
        self._running = self._read() if once else None

    def __len__(self) -> int:
        return len(self.iterable)

    def __iter__(self) -> Iterator:
        return self._running or self._read()

    def _read(self) -> Iterator:
        iterator = iter(self.iterable)
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        try:
            ahead = worker.submit(next, iterator, _END)
            while (item := ahead.result()) is not _END:
                ahead = worker.submit(next, iterator, _END)
                yield item
        finally:
            worker.shutdown(wait=False, cancel_futures=True)
