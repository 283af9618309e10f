"""Runs the roles of the training loop on several devices and nodes with Ray.

Ray reads its environment variables when it is imported, so they are set here, before any module of this package can
import it. Variables that the user has set are kept. Authentication is set up in `simplerl.cluster.ray_session`.
"""

import os

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_worker_niceness": "0",  # Ray's default of 15 would give every other process of the machine priority
    "RAY_prestart_worker_first_driver": "0",  # it would start an idle process for each CPU
}
for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
