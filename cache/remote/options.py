"""How each kind of server is connected to: safely, and never waited for without end."""

from __future__ import annotations

import logging
from typing import Any

from cache.common.url import SSH

# Seconds without a sign of life after which a server is given up.
WAIT_S = 60.0


def connection_options(protocol: str) -> dict[str, Any]:
    """What fsspec is told besides the address; of web servers see `client_options`."""
    if protocol in SSH:
        # asyncio's warnings of a lost connection; the error that follows says it all.
        logging.getLogger("asyncio").addHandler(logging.NullHandler())
        # sshfs alone would accept any host key; () means the user's own known_hosts.
        waits = {"login_timeout": WAIT_S / 2, "keepalive_interval": WAIT_S / 4}
        # A connection that was lost is not taken up again by the next Remote.
        return {"known_hosts": (), "keepalive_count_max": 4, "skip_instance_cache": True, **waits}
    if protocol in {"s3", "s3a"}:
        # s3fs itself tries up to five times five; botocore need not do so as well.
        waits = {"connect_timeout": WAIT_S / 12, "read_timeout": WAIT_S / 4}
        config = {**waits, "retries": {"max_attempts": 0}}
        return {"config_kwargs": config, "skip_instance_cache": True}
    return {}
