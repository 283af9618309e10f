"""Roles of the loop on several devices and nodes, by Ray.

What Ray reads from its environment it reads when it is imported, so it is set here, before any module of this package
can import it. `ray start` and `ray.init` choose different defaults for RAY_AUTH_MODE, which ends in "authentication
token is missing" as soon as ~/.ray/auth_token exists: it must be explicit and the same on every node.
"""

import os

RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_worker_niceness": "0",  # Ray's own 15 lets every other process of the machine go before the roles
}
for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
