import pickle

from iepile_cli import parallel


def test_processors_without_a_quota_are_counted(monkeypatch):
    monkeypatch.setattr(parallel, "_cgroup_folders", lambda: iter(()))
    parallel.processors.cache_clear()
    try:
        assert parallel.processors() >= 1
    finally:
        parallel.processors.cache_clear()


def _buffers(size: int) -> list[pickle.PickleBuffer]:
    return [pickle.PickleBuffer(bytes([size % 251]) * size), pickle.PickleBuffer(b"end")]


def test_buffers_of_workers_arrive_whole_whatever_their_size():
    sizes = [0, 1, 70_000, parallel._SHARED - 1, parallel._SHARED + 1, 5, 6, 7, 8, 9, 10]
    with parallel.WorkerPool(2) as pool:
        results = [[bytes(one) for one in result] for result in pool.map(_buffers, sizes)]
    assert results == [[bytes([size % 251]) * size, b"end"] for size in sizes]
