"""Runs on a Ray cluster: shards of an extraction or a conversion, spread by Ray Data.

A run's input is divided into shards by its own content, never by the cluster. A shard is worked
through by one replica, exactly as ``--shard I/N`` does it on one machine, and its file appears
when it is complete: replicas and nodes may come, go and die.
"""
