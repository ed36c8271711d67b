// Publishes one task over AMQP, waits for its result and prints "ID STATUS COMMIT".
//
//     npm ci
//     AMQP_URL=amqp://user:password@host:5672/%2f node submit.mjs
//
// If the task does not succeed, it prints the reason and ends with status 1.

import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const WAIT_S = 600;

const task = {
  // An id of your own: after a lost connection, publish the same task again. The pool does it once.
  id: `node-${randomUUID()}`,
  instruction: "Give every public function of ledger/text.py a docstring",
  repository: "sample",
  files: ["ledger/text.py"],
  capabilities: ["fast"],
};

// Resolves when the broker has stored the task in a queue.
async function publish(channel, replyQueue) {
  let returned = null;
  // The broker returns a mandatory message that no queue takes, and confirms it all the same.
  channel.once("return", (message) => { returned = message; });
  // The routing key is the capabilities, sorted and joined with "."; "any" without one.
  const key = [...task.capabilities].sort().join(".") || "any";
  channel.publish("pool.tasks", key, Buffer.from(JSON.stringify(task)), {
    mandatory: true,
    persistent: true,
    contentType: "application/json",
    correlationId: task.id,
    replyTo: replyQueue,
  });
  await channel.waitForConfirms();
  if (returned) throw new Error(`no queue takes the task: ${returned.fields.replyText}`);
}

// Resolves with the first message of the queue; rejects when the connection is lost, or after WAIT_S seconds.
function nextResult(connection, channel, replyQueue) {
  return new Promise((resolve, reject) => {
    const late = `no result of ${task.id} within ${WAIT_S} s; the task stays in its queue`;
    setTimeout(() => reject(new Error(late)), WAIT_S * 1000);
    connection.once("close", () => reject(new Error("the connection to the broker is lost")));
    channel.consume(replyQueue, (message) => {
      if (message === null) return reject(new Error("the broker has closed the reply queue"));
      channel.ack(message);
      // A result can come twice: a client with many tasks keeps the first of each id.
      resolve(JSON.parse(message.content));
    }).catch(reject);
  });
}

async function main() {
  const url = process.env.AMQP_URL;
  if (!url) throw new Error("AMQP_URL is not set; expected amqp://user:password@host:5672/%2f");
  const connection = await amqp.connect(url);
  connection.on("error", (error) => console.error(error.message)); // "close" follows
  const channel = await connection.createConfirmChannel();
  // This queue goes with the connection. A durable one keeps results while the client is away.
  const replyQueue = `results.${task.id}`;
  await channel.assertQueue(replyQueue, { exclusive: true });
  await channel.bindQueue(replyQueue, "pool.results", replyQueue);
  await publish(channel, replyQueue);
  const result = await nextResult(connection, channel, replyQueue);
  await connection.close();
  if (result.status !== "succeeded") throw new Error(`${task.id} ${result.status}: ${result.error.message}`);
  console.log(task.id, result.status, result.commit);
}

main().then(
  () => process.exit(0),
  (error) => { console.error(error.message); process.exit(1); },
);
