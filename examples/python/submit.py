"""Publishes one task over AMQP, waits for its result and prints "ID STATUS COMMIT".

    pip install -r requirements.txt
    AMQP_URL=amqp://user:password@host:5672/%2f python3 submit.py

If the task does not succeed, it prints the reason and ends with status 1.
"""

import json
import os
import sys
import uuid

import pika

WAIT_S = 600

task = {
    # An id of your own: after a lost connection, publish the same task again. The pool does it once.
    "id": f"python-{uuid.uuid4()}",
    "instruction": "Give every public function of ledger/text.py a docstring",
    "repository": "sample",
    "files": ["ledger/text.py"],
    "capabilities": ["fast"],
}


def publish(channel, reply_queue):
    """Returns when the broker has stored the task in a queue."""
    # The broker confirms each message, and pika raises UnroutableError when no queue takes it (mandatory).
    channel.confirm_delivery()
    channel.basic_publish(
        exchange="pool.tasks",
        # The capabilities, sorted and joined with "."; "any" without one.
        routing_key=".".join(sorted(task["capabilities"])) or "any",
        body=json.dumps(task),
        mandatory=True,
        properties=pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,  # persistent: the task outlives a restart of the broker
            correlation_id=task["id"],
            reply_to=reply_queue,
        ),
    )


def wait_for_result(channel, reply_queue):
    """The result of the task, or None after WAIT_S seconds."""
    method, _, body = next(channel.consume(reply_queue, inactivity_timeout=WAIT_S))
    if method is None:
        return None
    channel.basic_ack(method.delivery_tag)
    # A result can come twice: a client with many tasks keeps the first of each id.
    return json.loads(body)


def main():
    if not os.environ.get("AMQP_URL"):
        sys.exit("AMQP_URL is not set; expected amqp://user:password@host:5672/%2f")
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    # This queue goes with the connection. A durable one keeps results while the client is away.
    reply_queue = f"results.{task['id']}"
    channel.queue_declare(reply_queue, exclusive=True)
    channel.queue_bind(reply_queue, "pool.results", routing_key=reply_queue)
    publish(channel, reply_queue)
    result = wait_for_result(channel, reply_queue)
    connection.close()
    if result is None:
        sys.exit(f"no result of {task['id']} within {WAIT_S} s; the task stays in its queue")
    if result["status"] != "succeeded":
        sys.exit(f"{task['id']} {result['status']}: {result['error']['message']}")
    print(task["id"], result["status"], result["commit"])


main()
