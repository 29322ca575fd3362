"""Celery's settings, read when the app is first used.

A message is acknowledged before its job runs: with late acknowledgement, a Redis broker redelivers a task that outlives
its visibility timeout, while the first copy still runs. Without prefetch, only an idle worker takes a message.
"""

from soul_store.outbox import QUEUE
from soul_store.settings import get_settings

broker_url = get_settings().redis_url
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_transport_options = {
    "visibility_timeout": 3600,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "retry_on_timeout": True,
}
include = ["worker.tasks"]
task_default_queue = QUEUE
task_serializer = "json"
accept_content = ["json"]
enable_utc = True
task_acks_late = False
task_ignore_result = True
task_publish_retry = False  # the relay repeats it: the message is still in the outbox
worker_prefetch_multiplier = 1
worker_disable_prefetch = True
worker_concurrency = 1
worker_hijack_root_logger = False
worker_send_task_events = False
worker_cancel_long_running_tasks_on_connection_loss = False  # the lease decides, not the broker
