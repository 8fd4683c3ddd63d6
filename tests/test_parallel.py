from iepile_cli import parallel


def test_processors_without_a_quota_are_counted(monkeypatch):
    monkeypatch.setattr(parallel, "_cgroup_folders", lambda: iter(()))
    parallel.processors.cache_clear()
    try:
        assert parallel.processors() >= 1
    finally:
        parallel.processors.cache_clear()
