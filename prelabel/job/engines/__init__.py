"""Engines: how tasks reach workers. One protocol, one conformance suite (`prelabel.job.protocol`).

| engine | workers |
|---|---|
| `inline` | this process; for tests, Python and short runs |
| `local` | supervised processes of this machine, one per device; the default |
| `ray` | actors on a Ray cluster that is already there |
"""
